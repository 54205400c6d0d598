package auth

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"

	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/wire"
)

const authSecret = "open sesame"

func TestCredentialsKnownVector(t *testing.T) {
	// printf %s 1700000000:bob | openssl dgst -sha1 -hmac 'open sesame' -binary | base64
	username, credential := Credentials(authSecret, "bob", time.Unix(1700000000, 0), ExpiryUser, consent.Off)
	if username != "1700000000:bob" || credential != "Xt0u22mCmh5gzEcw5VF9jGAiXPg=" {
		t.Errorf("got %s %s", username, credential)
	}
	if username, _ := Credentials(authSecret, "", time.Unix(1700000000, 0), ExpiryUser, consent.Off); username != "1700000000" {
		t.Errorf("without a user: %s", username)
	}
}

// authRequest builds a request of method as a client with the credential would.
func authRequest(t *testing.T, a *Authenticator, client netip.Addr, now time.Time, method stun.Method,
	username, credential string) *stun.Message {
	t.Helper()
	key := turn.GenerateAuthKey(username, "signal", credential)
	m, err := stun.Build(stun.TransactionID, stun.NewType(method, stun.ClassRequest),
		stun.NewUsername(username), stun.NewRealm("signal"), stun.NewNonce(a.nonces.fresh(client, now)), stun.MessageIntegrity(key))
	if err != nil {
		t.Fatalf("building a request: %v", err)
	}
	return m
}

func TestAuthenticator(t *testing.T) {
	now := time.Unix(1700000000, 0)
	at := func(secret string, d time.Duration) [2]string {
		u, c := Credentials(secret, "bob", now.Add(d), ExpiryUser, consent.Off)
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
		{"unknown secret", stun.MethodAllocate, at("other", time.Minute), FailPassword},
		{"expires now", stun.MethodAllocate, at("new", 0), FailExpired},
		{"expired long ago", stun.MethodAllocate, at("new", -time.Hour), FailExpired},
		{"expired, refresh of nothing", stun.MethodRefresh, at("new", -time.Hour), FailExpired},
		{"expired, refresh, unknown secret", stun.MethodRefresh, at("other", -time.Hour), FailPassword},
		{"expired, channel on nothing", stun.MethodChannelBind, at("old", -time.Hour), FailExpired},
		{"another user's credential", stun.MethodAllocate, [2]string{at("new", time.Minute)[0] + "by", at("new", time.Minute)[1]}, FailPassword},
		{"no expiry", stun.MethodAllocate, [2]string{"bob", "x"}, FailUsername},
		{"empty", stun.MethodAllocate, [2]string{"", "x"}, FailUsername},
		{"negative", stun.MethodAllocate, [2]string{"-5:bob", "x"}, FailUsername},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := New(Config{Realm: "signal", Secrets: []string{"new", "old"}})
			client := netip.MustParseAddr("192.0.2.7")
			request := authRequest(t, a, client, now, tt.method, tt.with[0], tt.with[1])
			who, failure := a.Authenticate(request, client, nil, now)
			if (failure == nil) != (tt.failure == "") || failure != nil && failure.Reason != tt.failure {
				t.Fatalf("got %+v, want failure %q", failure, tt.failure)
			}
			if failure == nil && string(who.Key) != string(turn.GenerateAuthKey(tt.with[0], "signal", tt.with[1])) {
				t.Error("the key is of another secret")
			}
		})
	}
}

// TestAttributesBehindIntegrityProveNothing adds an attribute to a signed
// request, as anybody on the way could.
func TestAttributesBehindIntegrityProveNothing(t *testing.T) {
	now, client := time.Now(), netip.MustParseAddr("192.0.2.7")
	a := New(Config{Realm: "signal", Secrets: []string{authSecret}})
	username, credential := Credentials(authSecret, "bob", now.Add(time.Minute), ExpiryUser, consent.Off)
	request := authRequest(t, a, client, now, stun.MethodRefresh, username, credential)
	if err := wire.SetLifetime(0).AddTo(request); err != nil {
		t.Fatal(err)
	}
	if _, failure := a.Authenticate(request, client, nil, now); failure != nil {
		t.Fatalf("got %+v", failure)
	}
	if request.Contains(stun.AttrLifetime) {
		t.Error("the attribute is believed")
	}
}

func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{"1700000000:bob", "1700000000", "bob", "", "-5:bob", "99999999999999999999:x", "0x10:a", "1_0:a", ":", "7:a:b"} {
		f.Add(seed, []byte("nonce"), true)
		f.Add(seed, []byte{}, false)
	}
	a := New(Config{Realm: "signal", Secrets: []string{authSecret}, Users: []string{"gate:pass"}})
	client, now := netip.MustParseAddr("192.0.2.7"), time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, username string, nonce []byte, known bool) {
		if len(username) > 500 || len(nonce) > 700 {
			return
		}
		if known {
			nonce = []byte(a.nonces.fresh(client, now))
		}
		m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), wire.SetValue(stun.AttrUsername, []byte(username)...),
			stun.NewRealm("signal"), wire.SetValue(stun.AttrNonce, nonce...), stun.NewLongTermIntegrity(username, "signal", password(authSecret, username)))
		if err != nil {
			t.Fatal(err)
		}
		who, failure := a.Authenticate(m, client, nil, now)
		said, ok := splitUsername(username, ExpiryUser)
		if want := ok && now.Before(said.expiry) && a.nonces.valid(nonce, client, now); (failure == nil) != want {
			t.Fatalf("%q with nonce %q: %+v, want success %v", username, nonce, failure, want)
		}
		if failure == nil && (who.User != said.user || who.Username != username || who.Proof != said.proof) {
			t.Fatalf("%q is %+v", username, who)
		}
	})
}

func TestOrderOfUsernames(t *testing.T) {
	expiry := time.Unix(1_700_000_000, 0)
	for _, test := range []struct {
		order          Order
		user, username string
	}{
		{ExpiryUser, "bob", "1700000000:bob"},
		{ExpiryUser, "bob:7", "1700000000:bob:7"},
		{UserExpiry, "bob", "bob:1700000000"},
		{UserExpiry, "bob:7", "bob:7:1700000000"},
		{UserExpiry, "", "1700000000"},
		{ExpiryUser, "", "1700000000"},
	} {
		username, _ := Credentials(authSecret, test.user, expiry, test.order, consent.Off)
		if username != test.username {
			t.Errorf("%s: %q is %q", test.order, test.user, username)
		}
		for proof := consent.Off; proof <= consent.Room; proof++ {
			username, _ := Credentials(authSecret, test.user, expiry, test.order, proof)
			if said, ok := splitUsername(username, test.order); !ok || said != (minted{expiry, test.user, proof}) {
				t.Errorf("%s: %q is read as %+v", test.order, username, said)
			}
		}
	}
	for _, username := range []string{"bob", "1700000000:bob", "bob:"} {
		if _, ok := splitUsername(username, UserExpiry); ok {
			t.Errorf("%q passes", username)
		}
	}
}

// TestMarksAreNobodysToChoose has users whose names look like what marks a username.
func TestMarksAreNobodysToChoose(t *testing.T) {
	expiry := time.Unix(1_700_000_000, 0)
	for _, order := range []Order{ExpiryUser, UserExpiry} {
		for _, user := range []string{"0", "00", "0:bob", "bob:0", "01700000000", "9999999999", "9999999999:bob", "bob:9999999999"} {
			for proof := consent.Off; proof <= consent.Room; proof++ {
				username, _ := Credentials(authSecret, user, expiry, order, proof)
				if said, ok := splitUsername(username, order); !ok || said.proof != proof || said.user != user {
					t.Errorf("%s: %q is read as %+v, want %v", order, username, said, proof)
				}
			}
		}
	}
	if said, _ := splitUsername("0001700000000:bob", ExpiryUser); said.proof != consent.Room {
		t.Errorf("more marks than there are mean %v", said.proof)
	}
}
