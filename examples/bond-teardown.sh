#!/bin/bash
# The way back: members leave, the bond is deleted.
#   bond-teardown.sh [BOND]      default: bond0
set -eu
net=${SYSFS:-/sys}/class/net
usage="usage: bond-teardown.sh [BOND]      default: bond0"
case ${1:-} in
-h | --help) echo "$usage"; exit 0 ;;
-*) echo "bond-teardown.sh: there is no option $1" >&2; echo "$usage" >&2; exit 2 ;;
esac
[ $# -le 1 ] || { echo "$usage" >&2; exit 2; }
bond=${1:-bond0}

[ -d "$net/$bond/bonding" ] || { echo "bond-teardown.sh: $bond is no bond" >&2; exit 1; }
for member in $(cat "$net/$bond/bonding/slaves"); do
    echo "-$member" >"$net/$bond/bonding/slaves"
done
echo "-$bond" >"$net/bonding_masters"
