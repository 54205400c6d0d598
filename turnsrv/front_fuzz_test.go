package turnsrv

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

func FuzzFront(f *testing.F) {
	allocate := wireRequest(stun.MethodAllocate, attrTransport(17))
	for _, seed := range [][]byte{
		wireRequest(stun.MethodBinding).Raw,
		wireRequest(stun.MethodBinding, stun.Fingerprint).Raw,
		allocate.Raw,
		wireRequest(stun.MethodAllocate, attrTransport(17), stun.NewUsername("1:a"), stun.NewRealm("signal"),
			stun.NewNonce("x"), stun.MessageIntegrity("k")).Raw,
		wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrRaw(stun.AttrData, 1)).Raw,
		wireChannelData(0x4000, []byte("abc"), 0), wireChannelData(0x4000, nil, 3), {0x40, 0, 0xff, 0xff},
		{0, 1, 0xff, 0xec, 0x21, 0x12, 0xa4, 0x42}, {}, {0x80},
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	cfg := loopbackConfig()
	if err := cfg.Validate(); err != nil {
		f.Fatal(err)
	}
	front, err := newFront(cfg, newMetrics())
	if err != nil {
		f.Fatal(err)
	}
	if err = front.startEngine(1); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = front.close() })
	if err := front.decidePeers(cfg.peers()); err != nil {
		f.Fatal(err)
	}
	from := transport.FiveTuple{Protocol: transport.UDP, Client: netip.MustParseAddrPort("127.0.0.1:1000"), Server: netip.MustParseAddrPort("127.0.0.1:3478")}
	username, credential := Credentials(testSecret, "fuzz", time.Now().Add(24*time.Hour))
	key := stun.NewLongTermIntegrity(username, cfg.Realm, credential)
	f.Fuzz(func(t *testing.T, packet []byte, sign bool) {
		if sign {
			packet = signedForFuzz(packet, username, cfg.Realm, freshNonce(front, from.Client.Addr()), key)
		}
		var p recorder
		front.Receive(from, &p, packet, 0)
		if len(p.sent) > 1 {
			t.Fatalf("%d answers", len(p.sent))
		}
		for _, answer := range p.sent {
			if !stun.IsMessage(answer) || len(answer) > len(packet)+200 {
				t.Fatalf("answer of %d bytes to %d", len(answer), len(packet))
			}
		}
	})
}

// signedForFuzz adds valid credentials to a message, so that the fuzzer reaches
// what lies behind them; what is no message stays as it is.
func signedForFuzz(packet []byte, username, realm, nonce string, key stun.MessageIntegrity) []byte {
	m := new(stun.Message)
	if _, err := m.Write(packet); err != nil {
		return packet
	}
	setters := []stun.Setter{stun.NewTransactionIDSetter(m.TransactionID), m.Type}
	for _, a := range m.Attributes {
		setters = append(setters, wire.SetValue(a.Type, a.Value...))
	}
	signed, err := stun.Build(append(setters, stun.NewUsername(username), stun.NewRealm(realm), stun.NewNonce(nonce), key)...)
	if err != nil {
		return packet
	}
	return signed.Raw
}

// recorder is a path that keeps what is sent.
type recorder struct{ sent [][]byte }

func (r *recorder) Send(packet []byte, _ batch.Mark) error {
	r.sent = append(r.sent, slices.Clone(packet))
	return nil
}

// freshNonce is a nonce for a client.
func freshNonce(f *front, client netip.Addr) string {
	_, nonce := f.auth.Challenge(client, time.Now())
	return string(nonce)
}
