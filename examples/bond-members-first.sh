#!/bin/bash
# An IPoIB bond through sysfs, the order of 2007: members join while the bond is down, then it goes up.
#   bond-members-first.sh [-a ADDRESS/BITS] [BOND [MEMBER...]]      default: bond0 ib0 ib1, no address
# What it made is taken away again when a step fails. See bond-teardown.sh for the way back.
set -eu
here=$(dirname "$(readlink -f "$0")")
. "$here/bond-functions.sh"

begin "$@"
make_bond
set_options
add_members
set_mtu
set_up
set_address
show
