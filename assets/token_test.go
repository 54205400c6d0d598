package assets_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

const tokenSecret = "the secret that a backend shares with a node"

// signedFor returns a token of somebody for the room "r", with more claims.
func signedFor(t *testing.T, subject string, life time.Duration, more jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": subject, "exp": float64(time.Now().Add(life).UnixMilli()) / 1000, "rooms": "r", "relay": true}
	maps.Copy(claims, more)
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(tokenSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestCallWithTokens has two pages call through a relay, one of which may only receive.
func TestCallWithTokens(t *testing.T) {
	node := systemtest.StartNode(t, "--auth-secret", tokenSecret)
	browser := pagetest.Start(t)
	link := node.URL + "?autojoin=1&room=r&transport=relay-udp&media="
	open := func(media, token string) pagetest.Page { return browser.Open(t, link+media+"#token="+token) }
	speaker := open("synthetic", signedFor(t, "ann", time.Hour, nil))
	listener := open("none", signedFor(t, "bob", time.Hour, jwt.MapClaims{"publish": false}))
	listener.Connected(1, pagetest.Connection.Relayed)
	for _, p := range []pagetest.Page{speaker, listener} {
		if at := pagetest.Evaluate[string](p, "location.href"); strings.Contains(at, "token") {
			t.Errorf("the address is %s", at)
		}
		for _, line := range p.Log() {
			if strings.Contains(line, "error") {
				t.Errorf("the log says %s", line)
			}
		}
	}
	// It would send all the same: the server does not pass it on.
	refused := pagetest.Evaluate[string](listener, `(async () => {
		const pc = new RTCPeerConnection();
		pc.addTransceiver("video");
		const offer = await pc.createOffer();
		pc.close();
		const { client } = window.signalPage;
		const other = client.users.find((user) => user !== client.userId);
		return client.sendDescription(other, offer).then(() => "passed on", ({ code }) => String(code));
	})()`)
	if refused != "403" {
		t.Errorf("an offer to send, of who may only receive, is %s", refused)
	}
	stranger := browser.Open(t, node.URL+"?autojoin=1&room=r&media=none#token="+signedFor(t, "eve", -time.Minute, nil))
	pagetest.Until(stranger, "the page says that its token is refused", `window.signalPage.log.join("\n")`, func(log string) bool {
		return strings.Contains(log, "Closed for good: 401 The server refuses the token.")
	})
}

// TestStrangerIsTold opens pages that show nothing at nodes that want a token, or a session that the owner's backend knows: they stop, and
// say why.
func TestStrangerIsTold(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(backend.Close)
	browser := pagetest.Start(t)
	for name, door := range map[string][]string{"token": {"--auth-secret", tokenSecret}, "backend": {"--auth-url", backend.URL}} {
		t.Run(name, func(t *testing.T) {
			page := browser.Open(t, systemtest.StartNode(t, door...).URL+"?autojoin=1&room=r&media=none")
			pagetest.Until(page, "the page says that it may not come in", `window.signalPage.log.join("\n")`, func(log string) bool {
				return strings.Contains(log, "Closed for good: 401 The server lets in only who has a token or is signed in.")
			})
		})
	}
}

// connectWith returns a script that connects with tokens, one after the other, and counts what happens.
func connectWith(tokens ...string) string {
	return fmt.Sprintf(`(async () => {
		const { SignalClient } = await import("/signal.js");
		const tokens = %q.split(" ");
		window.test = { ice: 0, retry: 0, closed: "" };
		const client = new SignalClient(undefined, { token: async () => (tokens.length > 1 ? tokens.shift() : tokens[0]) });
		client.addEventListener("ice", () => window.test.ice++);
		client.addEventListener("retry", () => window.test.retry++);
		client.addEventListener("closed", ({ detail }) => (window.test.closed = detail.code + " " + detail.reason));
		return client.join("r").then(() => "joined", ({ code, message }) => code + " " + message);
	})()`, strings.Join(tokens, " "))
}

type counted struct {
	Ice, Retry int
	Closed     string
}

// TestTokensOverTime renews the token of one page in place, and lets that of another expire.
func TestTokensOverTime(t *testing.T) {
	t.Parallel()
	node, browser := systemtest.StartNode(t, "--auth-secret", tokenSecret), pagetest.Start(t)
	p := browser.Open(t, node.URL)
	bad, brief, long := signedFor(t, "ann", -time.Minute, nil), signedFor(t, "ann", 24*time.Second, nil), signedFor(t, "ann", time.Hour, nil)
	if got := pagetest.Evaluate[string](p, connectWith(bad, brief, long)); got != "joined" {
		t.Fatalf("with a token that is refused and then a good one: %s", got)
	}
	pagetest.Until(p, "the token is renewed", "window.test", func(c counted) bool { return c.Ice == 2 })
	if c := pagetest.Evaluate[counted](p, "window.test"); c.Retry != 1 || c.Closed != "" {
		t.Errorf("meanwhile: %+v", c)
	}
	if got := pagetest.Evaluate[string](p, connectWith(signedFor(t, "ann", 10*time.Second, nil))); got != "joined" {
		t.Fatalf("with a token that expires: %s", got)
	}
	pagetest.Until(p, "the token expires", "window.test", func(c counted) bool { return c.Closed == "4501 the token has expired" })
}
