"""The view over /sys/class/net of a lab host, through FUSE."""
