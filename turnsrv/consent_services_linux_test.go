package turnsrv

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// service is something on the Internet that speaks UDP and has not asked to be called by a relay.
type service struct {
	name    string
	request []byte                                          // request is what its clients send first.
	reply   func(packet []byte, from netip.AddrPort) []byte // reply is what it sends back to any packet; nil is silence.
}

// constant replies to everything alike.
func constant(reply []byte) func([]byte, netip.AddrPort) []byte {
	return func([]byte, netip.AddrPort) []byte { return reply }
}

func repeated(packet []byte, _ netip.AddrPort) []byte { return packet }

// hexed is bytes in hexadecimal digits, and as many zeros behind them as make so many bytes.
func hexed(digits string, size int) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		panic(err)
	}
	return append(b, make([]byte, max(0, size-len(b)))...)
}

// dnsQuery asks for example.com with an id that begins with that byte.
func dnsQuery(id byte) []byte {
	return append([]byte{id, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x07example\x03com\x00\x00\x01\x00\x01"...)
}

func dnsReply(packet []byte, _ netip.AddrPort) []byte {
	reply := bytes.Clone(packet)
	if len(reply) > 3 {
		reply[2] |= 0x80
	}
	return reply
}

// stunReply answers every STUN message as a server does that signs nothing.
func stunReply(packet []byte, from netip.AddrPort) []byte {
	m, err := wire.Decode(packet)
	if err != nil {
		return nil
	}
	return stun.MustBuild(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
		wire.SetXORAddress(stun.AttrXORMappedAddress, from), stun.NewSoftware("a server"), stun.Fingerprint).Raw
}

// longTermKey is that of an account which the attacker has at a TURN server.
var longTermKey = stun.NewLongTermIntegrity("eve", "example.org", "secret")

// turnReply answers as a server that demands long-term credentials: with them it signs.
func turnReply(packet []byte, from netip.AddrPort) []byte {
	m, err := wire.Decode(packet)
	if err != nil {
		return nil
	}
	id := stun.NewTransactionIDSetter(m.TransactionID)
	if longTermKey.Check(m) != nil || !m.Contains(stun.AttrNonce) {
		return stun.MustBuild(id, stun.NewType(m.Type.Method, stun.ClassErrorResponse), stun.CodeUnauthorized,
			stun.NewRealm("example.org"), stun.NewNonce("a nonce"), stun.Fingerprint).Raw
	}
	return stun.MustBuild(id, stun.NewType(m.Type.Method, stun.ClassSuccessResponse),
		wire.SetXORAddress(stun.AttrXORMappedAddress, from), longTermKey, stun.Fingerprint).Raw
}

// longTerm is a Binding request that such a server answers with integrity, dressed as a check.
func longTerm() []byte {
	return stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("eve"), stun.NewRealm("example.org"), stun.NewNonce("a nonce"),
		wire.SetValue(stun.AttrPriority, 0, 0, 0, 1), wire.SetValue(stun.AttrICEControlling, make([]byte, 8)...), longTermKey, stun.Fingerprint).Raw
}

// services are what an open relay would be used for.
func services() []service {
	check := testCheck(1)
	return []service{
		{"DNS", dnsQuery(0x12), dnsReply},
		{"DNS that looks like RTP", dnsQuery(0x80), dnsReply},
		{"DNS that looks like DTLS", dnsQuery(0x16), dnsReply},
		{"DNS that looks like STUN", dnsQuery(0x00), dnsReply},
		{"mDNS", append([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x09_services\x07_dns-sd\x04_udp\x05local\x00\x00\x0c\x00\x01"...), dnsReply},
		{"QUIC Initial", hexed("c300000001 08 8394c8f03e515708 00 00 449e", 1200), constant(hexed("80 00000000 00 08 8394c8f03e515708 00000001", 0))},
		{"QUIC short header", hexed("40 8394c8f03e515708", 60), repeated},
		{"NTP", hexed("23 00 06 ec", 48), constant(hexed("24 02 06 ec", 48))},
		{"NTP monlist", hexed("17 00 03 2a", 8), constant(hexed("97 00 03 2a", 440))},
		{"SIP", []byte("OPTIONS sip:100@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2:5060\r\n\r\n"), constant([]byte("SIP/2.0 200 OK\r\n\r\n"))},
		{"MGCP", []byte("AUEP 1 *@192.0.2.1 MGCP 1.0\r\n"), constant([]byte("200 1 OK\r\n"))},
		{"echo", []byte("hello"), repeated},
		{"echo of what looks like RTP", hexed("80 60", 172), repeated},
		{"discard", hexed("ff", 100), nil},
		{"chargen", []byte{'\n'}, constant([]byte("!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJ\r\n"))},
		{"STUN server", stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw, stunReply},
		{"classic STUN server", hexed("0001 0000 00112233445566778899aabbccddeeff", 0), constant(hexed("0101 0000 00112233445566778899aabbccddeeff", 0))},
		{"STUN server that sends elsewhere", stun.MustBuild(stun.TransactionID, stun.BindingRequest, wire.SetValue(stun.AttrType(3), 0, 0, 0, 6)).Raw, stunReply},
		{"TURN server", stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), attrTransport(wire.ProtocolUDP)).Raw, turnReply},
		{"TURN server with an account", longTerm(), turnReply},
		{"TURN channel data", hexed("4000 0004 01020304", 0), repeated},
		{"WireGuard", hexed("01 000000", 148), constant(hexed("02 000000", 92))},
		{"WireGuard data", hexed("04 000000", 96), nil},
		{"TFTP", []byte("\x00\x01/etc/passwd\x00octet\x00"), constant(append([]byte{0, 3, 0, 1}, "root:x:0:0"...))},
		{"SNMP", hexed("30 26 02 01 01 04 06 7075626c6963 a0 19", 40), constant(hexed("30 26 02 01 01 04 06 7075626c6963 a2 19", 40))},
		{"SSDP", []byte("M-SEARCH * HTTP/1.1\r\nST: ssdp:all\r\n\r\n"), constant([]byte("HTTP/1.1 200 OK\r\n\r\n"))},
		{"memcached", []byte("\x00\x00\x00\x00\x00\x01\x00\x00stats\r\n"), constant([]byte("\x00\x00\x00\x00\x00\x01\x00\x00STAT pid 1\r\n"))},
		{"CoAP", hexed("40 01 0001", 0), constant(hexed("60 45 0001", 0))},
		{"NetBIOS", hexed("80f0 0010 0001 0000 0000 0000", 50), constant(hexed("80f0 8400 0000 0001", 60))},
		{"RIP", hexed("01 01 0000", 24), constant(hexed("02 01 0000", 24))},
		{"IKE", hexed("1122334455667788 0000000000000000 21 20 22 08", 200), constant(hexed("1122334455667788 8877665544332211 21 20 22 20", 200))},
		{"OpenVPN", hexed("38 0102030405060708", 14), constant(hexed("40 0102030405060708", 26))},
		{"DTLS server", hexed("16 fefd 0000 000000000000 0040", 77), constant(hexed("16 feff 0000 000000000000 0023", 60))},
		{"RTP receiver", hexed("80 60 0001", 172), repeated},
		{"RTCP receiver", hexed("80 c8 0006", 28), repeated},
		{"Kerberos", hexed("6a 81", 160), constant(hexed("7e 81", 100))},
		{"RADIUS", hexed("01 01 0026", 38), constant(hexed("03 01 0014", 20))},
		{"game server", []byte("\xff\xff\xff\xffTSource Engine Query\x00"), constant([]byte("\xff\xff\xff\xffI\x11name\x00"))},
		{"DHT", []byte("d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"), constant([]byte("d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re"))},
		{"syslog", []byte("<34>1 2026-01-01T00:00:00Z host su - ID47 - hello"), nil},
		{"bytes behind a check", append(bytes.Clone(check), "payload"...), repeated},
		{"a check with DATA", stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("a:b"), wire.SetValue(stun.AttrPriority, 0, 0, 0, 1),
			wire.SetValue(stun.AttrICEControlling, make([]byte, 8)...), wire.SetValue(stun.AttrData, []byte("payload")...), longTermKey).Raw, repeated},
		{"an indication", stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication), stun.NewSoftware("payload")).Raw, repeated},
		{"the first bytes of STUN", binary.BigEndian.AppendUint32(hexed("0001 0040", 0), 0x2112A442), repeated},
		{"nothing", nil, constant(nil)},
	}
}
