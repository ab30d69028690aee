#!/bin/bash
# The same bond in the order of distributions' network scripts: the bond is up before the first member joins.
#   bond-up-first.sh [-a ADDRESS/BITS] [BOND [MEMBER...]]      default: bond0 ib0 ib1, no address
# In 2007 this order lost multicast (the groups were joined as Ethernet's); drivers since 2009 map them again.
set -eu
here=$(dirname "$(readlink -f "$0")")
. "$here/bond-functions.sh"

begin "$@"
make_bond
set_options
set_up
set_address
add_members
set_mtu
show
