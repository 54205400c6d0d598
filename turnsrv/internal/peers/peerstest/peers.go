// Package peerstest lists peers that a relay must not reach, for the tests of the
// policy and of servers that follow it.
package peerstest

import "net/netip"

// Forbidden are forbidden peers that Disguised tries to get around. Its addresses are of the internet, since all others are denied anyway.
var Forbidden = AddrPorts("11.22.33.44:6379", "[2620:0:1::6379]:6379", "[::ffff:11.22.33.45]:8080", "0.0.0.0:6380")

// Disguised are peers that no server that forbids Forbidden may let a
// client reach, neither by a permission nor by a channel nor by a packet, unless
// --turn-allow-peer opens them. No port is a relay port by default, so that the
// list holds for a server whose relay address is one of them.
var Disguised = AddrPorts(
	// This machine.
	"0.0.0.0:9", "0.1.2.3:9", "127.0.0.1:9", "127.255.255.254:9", "[::]:9", "[::1]:9", "[::%eth0]:9",
	"[::127.0.0.1]:9", "[::0.0.0.2]:9", "[::ffff:0.0.0.0]:9", "[::ffff:127.0.0.1]:9", "[::ffff:127.0.0.1%lo]:9", "[::ffff:0:127.0.0.1]:9",
	"[64:ff9b::7f00:1]:9", "[64:ff9b::]:9", "[64:ff9b:1::7f00:1]:9", "[64:ff9b:1:7f00:0:100::]:9", "[64:ff9b:1:ffff:ffff:ffff:7f00:1]:9",
	"[2002:7f00:1::]:9", "[2002:7f00:1::8.8.8.8]:9", "[2002::1]:9", "[2001:0:808:808:0:0:80ff:fffe]:9", "[2001::1]:9",
	"[2a00::5efe:127.0.0.1]:9", "[2a00::200:5efe:127.0.0.1]:9", "[fe80::5efe:127.0.0.1]:9",
	// Private networks.
	"10.0.0.1:9", "10.255.255.255:9", "172.16.0.1:9", "172.31.255.255:9", "192.168.0.1:9", "100.64.0.1:9", "100.127.255.255:9",
	"[::10.0.0.1]:9", "[::ffff:10.0.0.1]:9", "[::ffff:172.16.0.1]:9", "[::ffff:192.168.1.1]:9", "[::ffff:100.64.0.1]:9",
	"[::ffff:0:10.0.0.1]:9", "[64:ff9b::10.0.0.1]:9", "[64:ff9b::192.168.0.1]:9", "[64:ff9b::100.64.0.1]:9", "[2002:a00:1::1]:9",
	"[2002:c0a8:101::1]:9", "[2002:6440:1::1]:9", "[2a00::5efe:10.0.0.1]:9", "[2a00::200:5efe:192.168.0.1]:9",
	"[fc00::1]:9", "[fd00:ec2::254]:9", "[fec0::1]:9",
	// Link-local networks and what clouds serve there.
	"169.254.169.254:80", "169.254.1.1:9", "[::ffff:169.254.169.254]:80", "[::169.254.169.254]:80", "[64:ff9b::a9fe:a9fe]:80",
	"[2002:a9fe:a9fe::]:80", "[2a00::5efe:169.254.169.254]:80", "[fe80::1]:9", "[fe80::1%eth0]:9", "[fe80::a9fe:a9fe%1]:80",
	// What is not one host.
	"224.0.0.1:9", "239.255.255.250:1900", "255.255.255.255:9", "240.0.0.1:9", "[ff02::1]:9", "[ff0e::1]:9", "[ff02::fb%eth0]:5353",
	"[::ffff:224.0.0.1]:9", "[::ffff:255.255.255.255]:9", "[64:ff9b::224.0.0.1]:9", "[2002:ffff:ffff::]:9", "[2002:e000:1::]:9",
	// Other special-purpose space.
	"192.0.0.1:9", "192.0.2.9:9", "192.88.99.1:9", "198.18.0.1:9", "198.51.100.1:9", "203.0.113.9:9", "[100::1]:9", "[2001:2::1]:9",
	"[2001:20::1]:9", "[2001:db8::9]:9", "[3fff::1]:9", "[5f00::1]:9", "[4000::1]:9", "[64:ff9b::192.0.2.9]:9", "[2002:c000:209::]:9",
	// What Forbidden names, the node's own Redis for one.
	"11.22.33.44:6379", "[::ffff:11.22.33.44]:6379", "[::11.22.33.44]:6379", "[64:ff9b::11.22.33.44]:6379", "[2002:b16:212c::1]:6379",
	"[2a00::5efe:11.22.33.44]:6379", "[2620:0:1::6379]:6379", "[2620:0:1::6379%eth0]:6379", "11.22.33.45:8080", "[64:ff9b::11.22.33.45]:8080",
	"127.0.0.1:6380", "127.9.9.9:6380", "[::1]:6380",
)

// AddrPorts parses addresses with their ports.
func AddrPorts(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}
