package batch

// Mark is the DSCP and the ECN of a packet, as they stand in its IP header: the
// type of service of IPv4, the traffic class of IPv6. Nearly all packets have none,
// which is 0.
type Mark uint8
