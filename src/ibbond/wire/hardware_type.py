"""ARP hardware types, which are also Linux's types of network devices (ARPHRD_*).

Read first: IANA's "Hardware Types", linux/if_arp.h.
"""

ETHERNET = 1
INFINIBAND = 32
NONE = 0xFFFE  # what a TUN device is, unless set otherwise
