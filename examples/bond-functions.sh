# Steps of bond-members-first.sh and bond-up-first.sh; sourced by them. Everything is a file of the bonding driver.
net=${SYSFS:-/sys}/class/net

# The lines of the script's head that begin with its own name.
usage() {
    sed -n "s/^#   \(${0##*/} .*\)/usage: \1/p" "$0"
}

misused() {
    echo "${0##*/}: $1" >&2
    usage >&2
    exit 2
}

begin() {
    address=
    [ "${1:-}" != --help ] || set -- -h
    while getopts :a:h option; do
        case $option in
        a) address=$OPTARG ;;
        h) usage; exit 0 ;;
        :) misused "-$OPTARG takes a value" ;;
        *) misused "there is no option -$OPTARG" ;;
        esac
    done
    shift $((OPTIND - 1))
    [ -z "$address" ] || [[ $address == [0-9a-fA-F:]*/[0-9]* ]] || misused "-a takes ADDRESS/BITS, not $address"
    bond=${1:-bond0}
    [ $# -gt 1 ] || set -- "$bond" ib0 ib1
    shift
    members=("$@")
    [ -e "$net/bonding_masters" ] || modprobe bonding max_bonds=0
    for member in "${members[@]}"; do
        [ -d "$net/$member" ] || { echo "there is no device $member" >&2; exit 1; }
    done
    [ ! -e "$net/$bond" ] || { echo "$bond is there already" >&2; exit 1; }
    trap 'code=$?; [ $code -eq 0 ] || [ ! -e "$net/$bond" ] || echo "-$bond" >"$net/bonding_masters"; exit $code' EXIT
}

make_bond() {
    echo "+$bond" >"$net/bonding_masters"
}

# Before members: the mode cannot be changed once there is one. miimon before its delays.
set_options() {
    echo active-backup >"$net/$bond/bonding/mode"
    echo "${MIIMON:-100}" >"$net/$bond/bonding/miimon"
    echo 3 >"$net/$bond/bonding/num_grat_arp"
}

add_members() {
    mtu=65520
    for member in "${members[@]}"; do
        own=$(cat "$net/$member/mtu")
        [ "$own" -ge "$mtu" ] || mtu=$own
        flags=$(cat "$net/$member/flags")
        printf '0x%x\n' $((flags & ~1)) >"$net/$member/flags" # members join down
        echo "+$member" >"$net/$bond/bonding/slaves"
    done
}

# A bond starts with Ethernet's 1500 and gives that to its members.
set_mtu() {
    echo "${MTU:-$mtu}" >"$net/$bond/mtu"
}

set_up() {
    flags=$(cat "$net/$bond/flags")
    printf '0x%x\n' $((flags | 1)) >"$net/$bond/flags"
}

set_address() {
    [ -z "$address" ] || ip address add "$address" dev "$bond"
}

show() {
    echo "$bond: $(cat "$net/$bond/bonding/slaves"), active $(cat "$net/$bond/bonding/active_slave")"
}
