// SPDX-License-Identifier: GPL-2.0
/*
 * lookib: network devices that look like IPoIB to everything above them, without InfiniBand.
 *
 * Test equipment of ibbond: the kernel's own bonding driver, ARP and neighbour code meet a device of type 32 with
 * 20-byte addresses (RFC 4391), a 4-byte encapsulation header and no way to set its address. All devices of one group
 * number share one hub; a device hears the others while both have their carrier.
 *
 *   ip link add ib0 address 80:00:02:08:<16 bytes GID> [group N] type lookib
 *   echo 0 > /sys/class/net/ib0/carrier
 *
 * Like IPoIB it has the files `mode` (datagram, connected) and `pkey`; the parent device is one of four look-alike
 * adapters, chosen by byte 18 of the address, and `dev_port` is byte 19 less one. Two files are for breaking things:
 * `fail_open` and `fail_mtu` hold the errno that the next bring-up or MTU change answers (0: none).
 *
 * Left out: RDMA, multicast filtering (everybody hears every group), connected-mode transport.
 */
#include <linux/ethtool.h>
#include <linux/if_arp.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/version.h>
#include <net/rtnetlink.h>

#define ADDRESS_BYTES 20
#define ENCAPSULATION_BYTES 4
#define HEADER_BYTES (ADDRESS_BYTES + ENCAPSULATION_BYTES)
#define DATAGRAM_MTU 2044
#define CONNECTED_MTU 65520
#define ADAPTERS 4

struct lookib {
	struct net_device *dev;
	struct list_head on_hub;
	struct pcpu_sw_netstats __percpu *counters;
	u16 pkey;
	bool connected;
	int fail_open;
	int fail_mtu;
};

static LIST_HEAD(hub);
static DEFINE_SPINLOCK(hub_lock);
static struct device *adapters[ADAPTERS];

static const u8 everybody[ADDRESS_BYTES] = {
	0x00, 0xff, 0xff, 0xff, 0xff, 0x12, 0x40, 0x1b, 0xff, 0xff,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff,
};

/* The destination goes in front of the packet, where the transmit function finds it; it never goes on the wire. */
static int lookib_header(struct sk_buff *skb, struct net_device *dev, unsigned short type, const void *destination,
			 const void *source, unsigned int length)
{
	u8 *header = skb_push(skb, HEADER_BYTES);
	__be16 *encapsulation = (__be16 *)(header + ADDRESS_BYTES);

	memcpy(header, destination ? destination : dev->broadcast, ADDRESS_BYTES);
	encapsulation[0] = htons(type);
	encapsulation[1] = 0;
	return HEADER_BYTES;
}

static const struct header_ops lookib_headers = { .create = lookib_header };

static bool hears(const struct net_device *to, const struct net_device *from, const u8 *destination)
{
	if (to == from || to->group != from->group || !netif_running(to) || !netif_carrier_ok(to))
		return false;
	return destination[4] == 0xff || !memcmp(to->dev_addr, destination, ADDRESS_BYTES);
}

static void hand_over(const struct sk_buff *skb, const struct net_device *from, struct net_device *to, bool multicast)
{
	struct sk_buff *copy = skb_copy(skb, GFP_ATOMIC);

	if (!copy)
		return;
	skb_scrub_packet(copy, !net_eq(dev_net(from), dev_net(to)));
	copy->dev = to;
	skb_reset_mac_header(copy);
	skb_pull(copy, ADDRESS_BYTES);
	copy->protocol = *(__be16 *)copy->data;
	skb_pull(copy, ENCAPSULATION_BYTES);
	skb_reset_network_header(copy);
	copy->pkt_type = multicast ? PACKET_MULTICAST : PACKET_HOST;
	copy->ip_summed = CHECKSUM_UNNECESSARY;
	dev_sw_netstats_rx_add(to, copy->len);
	netif_rx(copy);
}

static netdev_tx_t lookib_transmit(struct sk_buff *skb, struct net_device *dev)
{
	const u8 *destination;
	struct lookib *other;

	if (skb->len < HEADER_BYTES || skb_linearize(skb))
		goto drop;
	if (skb->ip_summed == CHECKSUM_PARTIAL && skb_checksum_help(skb))
		goto drop;
	destination = skb->data;
	dev_sw_netstats_tx_add(dev, 1, skb->len - ADDRESS_BYTES);
	spin_lock(&hub_lock);
	if (netif_carrier_ok(dev))
		list_for_each_entry(other, &hub, on_hub)
			if (hears(other->dev, dev, destination))
				hand_over(skb, dev, other->dev, destination[4] == 0xff);
	spin_unlock(&hub_lock);
drop:
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static int lookib_init(struct net_device *dev)
{
	struct lookib *port = netdev_priv(dev);

	port->counters = netdev_alloc_pcpu_stats(struct pcpu_sw_netstats);
	if (!port->counters)
		return -ENOMEM;
	dev->tstats = port->counters;
	port->dev = dev;
	spin_lock_bh(&hub_lock);
	list_add_tail(&port->on_hub, &hub);
	spin_unlock_bh(&hub_lock);
	return 0;
}

static void lookib_uninit(struct net_device *dev)
{
	struct lookib *port = netdev_priv(dev);

	spin_lock_bh(&hub_lock);
	list_del(&port->on_hub);
	spin_unlock_bh(&hub_lock);
	free_percpu(port->counters);
}

static int lookib_open(struct net_device *dev)
{
	struct lookib *port = netdev_priv(dev);

	if (port->fail_open)
		return -port->fail_open;
	netif_start_queue(dev);
	return 0;
}

static int lookib_stop(struct net_device *dev)
{
	netif_stop_queue(dev);
	return 0;
}

static int lookib_change_mtu(struct net_device *dev, int mtu)
{
	struct lookib *port = netdev_priv(dev);

	if (port->fail_mtu)
		return -port->fail_mtu;
	if (!port->connected && mtu > DATAGRAM_MTU)
		return -EINVAL;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	WRITE_ONCE(dev->mtu, mtu);
#else
	dev->mtu = mtu;
#endif
	return 0;
}

static int lookib_change_carrier(struct net_device *dev, bool on)
{
	if (on)
		netif_carrier_on(dev);
	else
		netif_carrier_off(dev);
	return 0;
}

static const struct net_device_ops lookib_ops = {
	.ndo_init = lookib_init,
	.ndo_uninit = lookib_uninit,
	.ndo_open = lookib_open,
	.ndo_stop = lookib_stop,
	.ndo_start_xmit = lookib_transmit,
	.ndo_change_mtu = lookib_change_mtu,
	.ndo_change_carrier = lookib_change_carrier,
	.ndo_get_stats64 = dev_get_tstats64,
};

static const struct ethtool_ops lookib_ethtool = { .get_link = ethtool_op_get_link };

static struct lookib *port_of(struct device *d)
{
	return netdev_priv(to_net_dev(d));
}

static ssize_t mode_show(struct device *d, struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "%s\n", port_of(d)->connected ? "connected" : "datagram");
}

static ssize_t mode_store(struct device *d, struct device_attribute *attr, const char *text, size_t count)
{
	struct lookib *port = port_of(d);

	if (sysfs_streq(text, "connected")) {
		port->connected = true;
	} else if (sysfs_streq(text, "datagram")) {
		port->connected = false;
		rtnl_lock();
		if (port->dev->mtu > DATAGRAM_MTU)
			dev_set_mtu(port->dev, DATAGRAM_MTU);
		rtnl_unlock();
	} else {
		return -EINVAL;
	}
	return count;
}
static DEVICE_ATTR_RW(mode);

static ssize_t pkey_show(struct device *d, struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "0x%04x\n", port_of(d)->pkey);
}

/* IPoIB writes its P_Key into the broadcast address, in its full-member form. */
static ssize_t pkey_store(struct device *d, struct device_attribute *attr, const char *text, size_t count)
{
	struct lookib *port = port_of(d);
	u16 pkey;
	int error = kstrtou16(text, 0, &pkey);

	if (error)
		return error;
	port->pkey = pkey;
	pkey |= 0x8000;
	port->dev->broadcast[8] = pkey >> 8;
	port->dev->broadcast[9] = pkey & 0xff;
	return count;
}
static DEVICE_ATTR_RW(pkey);

#define BREAKING_FILE(name)                                                                                            \
	static ssize_t name##_show(struct device *d, struct device_attribute *attr, char *text)                        \
	{                                                                                                              \
		return sysfs_emit(text, "%d\n", port_of(d)->name);                                                     \
	}                                                                                                              \
	static ssize_t name##_store(struct device *d, struct device_attribute *attr, const char *text, size_t count)   \
	{                                                                                                              \
		int error = kstrtoint(text, 0, &port_of(d)->name);                                                     \
		return error ? error : count;                                                                          \
	}                                                                                                              \
	static DEVICE_ATTR_RW(name)

BREAKING_FILE(fail_open);
BREAKING_FILE(fail_mtu);

static struct attribute *lookib_files[] = {
	&dev_attr_mode.attr, &dev_attr_pkey.attr, &dev_attr_fail_open.attr, &dev_attr_fail_mtu.attr, NULL,
};
static const struct attribute_group lookib_group = { .attrs = lookib_files };

static void lookib_setup(struct net_device *dev)
{
	struct lookib *port = netdev_priv(dev);

	port->pkey = 0xffff;
	dev->netdev_ops = &lookib_ops;
	dev->header_ops = &lookib_headers;
	dev->ethtool_ops = &lookib_ethtool;
	dev->sysfs_groups[0] = &lookib_group;
	dev->type = ARPHRD_INFINIBAND;
	dev->addr_len = ADDRESS_BYTES;
	dev->hard_header_len = HEADER_BYTES;
	dev->mtu = DATAGRAM_MTU;
	dev->min_mtu = 68;
	dev->max_mtu = CONNECTED_MTU;
	dev->tx_queue_len = 256;
	dev->flags = IFF_BROADCAST | IFF_MULTICAST;
	dev->features = NETIF_F_VLAN_CHALLENGED | NETIF_F_HIGHDMA;
	dev->needs_free_netdev = true;
	memcpy(dev->broadcast, everybody, ADDRESS_BYTES);
	netif_keep_dst(dev);
}

static int plug_in(struct net_device *dev)
{
	SET_NETDEV_DEV(dev, adapters[dev->dev_addr[18] % ADAPTERS]);
	dev->dev_port = dev->dev_addr[19] ? dev->dev_addr[19] - 1 : 0;
	return register_netdevice(dev);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
static int lookib_newlink(struct net_device *dev, struct rtnl_newlink_params *params, struct netlink_ext_ack *extack)
{
	return plug_in(dev);
}
#else
static int lookib_newlink(struct net *net, struct net_device *dev, struct nlattr *tb[], struct nlattr *data[],
			  struct netlink_ext_ack *extack)
{
	return plug_in(dev);
}
#endif

static struct rtnl_link_ops lookib_link_ops = {
	.kind = "lookib",
	.priv_size = sizeof(struct lookib),
	.setup = lookib_setup,
	.newlink = lookib_newlink,
};

static void forget_adapters(void)
{
	int i;

	for (i = 0; i < ADAPTERS; i++)
		if (!IS_ERR_OR_NULL(adapters[i]))
			root_device_unregister(adapters[i]);
}

static int __init lookib_load(void)
{
	char name[] = "look0";
	int i, error;

	for (i = 0; i < ADAPTERS; i++) {
		name[4] = '0' + i;
		adapters[i] = root_device_register(name);
		if (IS_ERR(adapters[i])) {
			error = PTR_ERR(adapters[i]);
			goto undo;
		}
	}
	error = rtnl_link_register(&lookib_link_ops);
	if (!error)
		return 0;
undo:
	forget_adapters();
	return error;
}

static void __exit lookib_unload(void)
{
	rtnl_link_unregister(&lookib_link_ops);
	forget_adapters();
}

module_init(lookib_load);
module_exit(lookib_unload);
MODULE_LICENSE("GPL");
MODULE_ALIAS_RTNL_LINK("lookib");
MODULE_DESCRIPTION("IPoIB look-alike devices on an in-kernel hub");
