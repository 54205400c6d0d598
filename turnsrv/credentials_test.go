package turnsrv

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

func TestStrictExpiry(t *testing.T) {
	for _, strict := range []bool{false, true} {
		cfg := loopbackConfig()
		cfg.StrictExpiry = strict
		var clock atomic.Int64 // How far ahead the server's clock is.
		cfg.now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
		s := startServer(t, cfg)
		c := wired(t, s, "udp", "alice")
		c.username, c.password = Credentials(testSecret, "alice", time.Now().Add(30*time.Second))
		answer, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
		if err != nil {
			t.Fatal(err)
		}
		lifetime, err := answerLifetime(answer)
		if err != nil || (lifetime <= 30) != strict {
			t.Errorf("strict %v: the allocation lives %d s (%v)", strict, lifetime, err)
		}
		clock.Store(int64(time.Minute))
		answer, err = c.call(stun.MethodRefresh)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 401, false: 0}[strict]; answerCode(answer) != want {
			t.Errorf("strict %v: Refresh with an expired credential got %s", strict, describeAnswer(answer))
		}
		c.username, c.password = Credentials(testSecret, "alice", time.Now().Add(time.Hour))
		if _, err := c.accepts(stun.MethodRefresh); err != nil {
			t.Errorf("Refresh with a fresh credential of the same user: %v", err)
		}
	}
}

func TestNonceOutlivesARestart(t *testing.T) {
	first := startServer(t, loopbackConfig())
	c := wired(t, first, "udp", "alice")
	second := startServer(t, loopbackConfig())
	d, err := newWireClient("udp", loopbackIPv4, addressOfServer(second))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.conn.Close() }()
	d.username, d.password, d.realm, d.nonce = c.username, c.password, c.realm, c.nonce
	answer, err := d.exchange(d.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)))
	if err != nil {
		t.Fatal(err)
	}
	if err := wantSuccess(answer); err != nil {
		t.Error(err)
	}
}
