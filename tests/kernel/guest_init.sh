#!/bin/busybox sh
# First program of the guest: modules, the machine's root below an overlay, then guest.py; its end is the guest's end.
B=/bin/busybox
$B mkdir -p /proc /sys /dev /lower /rw /new
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
while read -r name parameters; do
    $B insmod "/modules/$name.ko" $parameters || echo "guest: cannot load $name"
done < /modules/order
$B mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 hostroot /lower
$B mount -t tmpfs -o size=60% tmpfs /rw
$B mkdir /rw/upper /rw/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new
for each in proc sys dev; do $B mkdir -p /new/$each; $B mount --move /$each /new/$each; done
$B mkdir -p /new/dev/pts /new/dev/shm
$B mount -t devpts devpts /new/dev/pts
$B mount -t tmpfs tmpfs /new/dev/shm
$B mount -t tmpfs -o mode=755 tmpfs /new/run  # the machine's own changes below the overlay: labs come and go in it
$B ln -sf /proc/self/fd /new/dev/fd
$B ip link set lo up
$B hostname guest
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
# switch_root, not chroot: setns into a mount namespace goes back to its real root. When the agent ends, so does the guest.
exec $B switch_root /new /bin/sh -c 'cd '@CHECKOUT@' && exec '@PYTHON@' '@AGENT@
