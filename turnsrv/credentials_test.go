package turnsrv

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"
)

func TestCredentialsKnownVector(t *testing.T) {
	// printf %s 1700000000:bob | openssl dgst -sha1 -hmac 'open sesame' -binary | base64
	username, credential := Credentials(testSecret, "bob", time.Unix(1700000000, 0))
	if username != "1700000000:bob" || credential != "Xt0u22mCmh5gzEcw5VF9jGAiXPg=" {
		t.Errorf("got %s %s", username, credential)
	}
	if username, _ := Credentials(testSecret, "", time.Unix(1700000000, 0)); username != "1700000000" {
		t.Errorf("without a user: %s", username)
	}
}

// authRequest builds a request of method as a client with the credential would.
func authRequest(t *testing.T, method stun.Method, username, credential string) []byte {
	t.Helper()
	key := turn.GenerateAuthKey(username, "signal", credential)
	m, err := stun.Build(stun.TransactionID, stun.NewType(method, stun.ClassRequest),
		stun.NewUsername(username), stun.NewRealm("signal"), stun.NewNonce("n"), stun.MessageIntegrity(key))
	if err != nil {
		t.Fatalf("building a request: %v", err)
	}
	return m.Raw
}

func TestAuthenticator(t *testing.T) {
	now := time.Unix(1700000000, 0)
	at := func(secret string, d time.Duration) [2]string {
		u, c := Credentials(secret, "bob", now.Add(d))
		return [2]string{u, c}
	}
	tests := []struct {
		name    string
		method  stun.Method
		with    [2]string
		failure string
	}{
		{"newest secret", stun.MethodAllocate, at("new", time.Minute), ""},
		{"previous secret", stun.MethodAllocate, at("old", time.Minute), ""},
		{"unknown secret", stun.MethodAllocate, at("other", time.Minute), failPassword},
		{"expires now", stun.MethodAllocate, at("new", 0), failExpired},
		{"expired long ago", stun.MethodAllocate, at("new", -time.Hour), failExpired},
		{"expired, refresh", stun.MethodRefresh, at("new", -time.Hour), ""},
		{"expired, refresh, unknown secret", stun.MethodRefresh, at("other", -time.Hour), failPassword},
		{"expired, channel", stun.MethodChannelBind, at("old", -time.Hour), ""},
		{"another user's credential", stun.MethodAllocate, [2]string{at("new", time.Minute)[0] + "by", at("new", time.Minute)[1]}, failPassword},
		{"no expiry", stun.MethodAllocate, [2]string{"bob", "x"}, failUsername},
		{"empty", stun.MethodAllocate, [2]string{"", "x"}, failUsername},
		{"negative", stun.MethodAllocate, [2]string{"-5:bob", "x"}, failUsername},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMetrics(func() int { return 0 })
			a := &authenticator{
				secrets: []string{"new", "old"}, realm: "signal", requests: newInflight(), metrics: m,
				log: slog.New(slog.DiscardHandler), now: func() time.Time { return now },
			}
			client := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
			a.requests.put(client, authRequest(t, tt.method, tt.with[0], tt.with[1]))
			key, ok := a.key(tt.with[0], "signal", client)
			if ok != (tt.failure == "") {
				t.Fatalf("accepted is %v, want failure %q", ok, tt.failure)
			}
			if ok && string(key) != string(turn.GenerateAuthKey(tt.with[0], "signal", tt.with[1])) {
				t.Error("the key is of another secret")
			}
			if !ok && valueOf(t, m.authFailures.WithLabelValues(tt.failure)) != 1 {
				t.Error("the failure was not counted under its reason")
			}
		})
	}
}

func TestInflightTellsClientsApart(t *testing.T) {
	f := newInflight()
	one, same := &net.UDPAddr{Port: 1}, &net.UDPAddr{Port: 1}
	f.put(one, authRequest(t, stun.MethodAllocate, "1:a", "x"))
	if f.message(one) == nil || f.message(same) != nil {
		t.Error("a request belongs to the address it came with, not to equal ones")
	}
	f.remove(one)
	if f.message(one) != nil {
		t.Error("the request was not removed")
	}
	f.put(one, []byte{0x40, 0, 0, 1, 0xff})
	if len(f.raw) != 0 {
		t.Error("channel data was kept")
	}
}

// TestCredentialsOverTheWire allocates with both secrets of a rotation and is
// refused with a wrong and with an expired credential, over UDP and TCP.
func TestCredentialsOverTheWire(t *testing.T) {
	cfg := testConfig()
	cfg.Secrets = []string{"new", "old"}
	s := startServer(t, cfg)
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			secret string
			ttl    time.Duration
			ok     bool
		}{
			{"new", time.Minute, true}, {"old", time.Minute, true}, {"other", time.Minute, false}, {"new", -time.Minute, false},
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
	eventually(t, "every allocation is gone", func() bool { return s.Allocations() == 0 })
	if got := valueOf(t, s.metrics.authFailures.WithLabelValues(failPassword)); got != 2 {
		t.Errorf("%v password failures were counted, want 2", got)
	}
	if got := valueOf(t, s.metrics.created); got != 4 {
		t.Errorf("%v allocations were counted, want 4", got)
	}
}
