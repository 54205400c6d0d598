package turnsrv

import (
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// TestSetSecrets rotates the secret of a server and an issuer that run.
func TestSetSecrets(t *testing.T) {
	cfg := testConfig()
	s, issuer := startServer(t, cfg), NewIssuer(cfg, 1)
	secrets := []string{"a new secret", testSecret}
	s.SetSecrets(nil)
	s.SetSecrets(secrets)
	issuer.SetSecrets(nil)
	issuer.SetSecrets(secrets)
	servers, _ := issuer.ICEServers("h", "bob", time.Now())
	fresh := servers[len(servers)-1]
	if fresh.Credential != credentialOf("a new secret", fresh.Username) {
		t.Error("the issuer mints with another secret")
	}
	old, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
	for username, secret := range map[string]string{fresh.Username: fresh.Credential, old: credential} {
		relay, err := newClient(t, s, "udp", username, secret).Allocate()
		if err != nil {
			t.Fatal(err)
		}
		_ = relay.Close()
	}
}

// TestCredentialsOverTheWire allocates with both secrets of a rotation and is
// refused with a wrong and with an expired credential, over UDP and TCP.
func TestCredentialsOverTheWire(t *testing.T) {
	cfg := testConfig()
	const newSecret, oldSecret = "the newest of the secrets", "the one that was before it"
	cfg.Secrets = []string{newSecret, oldSecret}
	s := startServer(t, cfg)
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			secret string
			ttl    time.Duration
			ok     bool
		}{
			{newSecret, time.Minute, true}, {oldSecret, time.Minute, true}, {"other", time.Minute, false}, {newSecret, -time.Minute, false},
		} {
			username, credential := Credentials(tt.secret, "bob", time.Now().Add(tt.ttl))
			relay, err := newClient(t, s, network, username, credential).Allocate()
			if (err == nil) != tt.ok {
				t.Errorf("%s, secret %s, ttl %v: %v", network, tt.secret, tt.ttl, err)
			}
			if relay != nil {
				_ = relay.Close()
			}
		}
	}
	systemtest.Eventually(t, "every allocation is gone", func() bool { return s.Allocations() == 0 })
	if got := turntest.ValueOf(t, s.front.metrics.authFailures.WithLabelValues(auth.FailPassword)); got != 2 {
		t.Errorf("%v password failures were counted, want 2", got)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := turntest.ValueOf(t, s.front.metrics.created.WithLabelValues(network, "ipv4")); got != 2 {
			t.Errorf("%v allocations over %s were counted, want 2", got, network)
		}
	}
}

func TestStaticUsersAndRotation(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Secrets = []string{"the newest of all secrets", testSecret}
	cfg.Users = []string{"gate:with:colon"}
	s := startServer(t, cfg)
	allocated(t, s, "udp", "old secret")
	c := wired(t, s, "udp", "x")
	c.username, c.password = Credentials("the newest of all secrets", "new secret", time.Now().Add(time.Hour))
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	c = wired(t, s, "udp", "x")
	c.username, c.password = "gate", "wrong"
	if err := c.refuses(401, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	c.password = "with:colon"
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
}
