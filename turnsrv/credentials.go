package turnsrv

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"
)

// Credentials returns the TURN-REST username and credential of user, which are
// good until expiry with every server that knows secret.
func Credentials(secret, user string, expiry time.Time) (username, credential string) {
	username = strconv.FormatInt(expiry.Unix(), 10)
	if user != "" {
		username += ":" + user
	}
	return username, password(secret, username)
}

// password is base64(HMAC-SHA1(secret, username)). The hash is fixed by the
// TURN-REST convention that other servers and clients share.
func password(secret, username string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// expiryOf reads the time out of a TURN-REST username, "expiry:user" or "expiry".
func expiryOf(username string) (time.Time, bool) {
	digits, _, _ := strings.Cut(username, ":")
	unix, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || unix < 0 {
		return time.Time{}, false
	}
	return time.Unix(unix, 0), true
}

// Reasons of authentication failures, as the metric names them.
const (
	failUsername = "username" // The username is not a TURN-REST username.
	failExpired  = "expired"
	failPassword = "password" // No secret explains the request's integrity.
)

// authenticator decides which key proves a request. All fields are fixed.
type authenticator struct {
	secrets  []string
	realm    string
	requests *inflight
	metrics  *metrics
	log      *slog.Logger
	now      func() time.Time
}

// key implements turn.AuthHandler. The engine wants one key for a username,
// while during a rotation every secret gives another one; the request itself,
// looked up by its client, tells which.
func (a *authenticator) key(username, _ string, client net.Addr) ([]byte, bool) {
	key, failure := a.check(username, a.requests.message(client))
	if failure != "" {
		a.metrics.authFailures.WithLabelValues(failure).Inc()
		a.log.Debug("turn authentication failed", "client", client.String(), "username", username, "reason", failure)
		return nil, false
	}
	return key, true
}

func (a *authenticator) check(username string, request *stun.Message) (key []byte, failure string) {
	expiry, ok := expiryOf(username)
	if !ok {
		return nil, failUsername
	}
	if !a.now().Before(expiry) && opensAllocation(request) {
		return nil, failExpired
	}
	if request == nil {
		// Without the request the engine alone can compare, and it takes one key.
		return a.keyOf(a.secrets[0], username), ""
	}
	// Every secret is tried, so that the time tells nothing about which one fits.
	for _, secret := range a.secrets {
		candidate := a.keyOf(secret, username)
		if stun.MessageIntegrity(candidate).Check(request) == nil && key == nil {
			key = candidate
		}
	}
	if key == nil {
		return nil, failPassword
	}
	return key, ""
}

// opensAllocation says whether a request must have a credential that is still
// alive. One that serves an allocation that exists may go on after the expiry,
// or every call would end with the credential it was set up with: a browser
// keeps using it.
func opensAllocation(request *stun.Message) bool {
	return request == nil || request.Type.Method == stun.MethodAllocate
}

func (a *authenticator) keyOf(secret, username string) []byte {
	return turn.GenerateAuthKey(username, a.realm, password(secret, username))
}

// inflight holds the requests that the engine is working on. A transport puts
// a request in before it hands it to the engine, which works on one request of
// a transport's read loop at a time, and replaces or removes it when the engine
// comes back for more. So there is one entry for each read loop at most.
//
// The key is the identity of the address that the transport gave to the engine
// (a pointer, and the engine passes it on untouched), hence two clients never
// share an entry even if they have equal addresses on different transports.
type inflight struct {
	mu  sync.Mutex
	raw map[net.Addr][]byte
}

func newInflight() *inflight {
	return &inflight{raw: map[net.Addr][]byte{}}
}

// put remembers packet if it is a request that may have to be authenticated.
func (f *inflight) put(client net.Addr, packet []byte) {
	if !isAuthenticatedRequest(packet) {
		return
	}
	packet = append([]byte(nil), packet...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw[client] = packet
}

func (f *inflight) remove(client net.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.raw, client)
}

// message returns the request of client, decoded, or nil.
func (f *inflight) message(client net.Addr) *stun.Message {
	f.mu.Lock()
	raw := f.raw[client]
	f.mu.Unlock()
	if raw == nil {
		return nil
	}
	// Checking the integrity writes into the message, so it gets its own bytes.
	message := &stun.Message{Raw: append([]byte(nil), raw...)}
	if message.Decode() != nil {
		return nil
	}
	return message
}

// isAuthenticatedRequest says whether packet looks like a STUN request other
// than Binding. It is cheap, since it sees every packet.
func isAuthenticatedRequest(packet []byte) bool {
	if !stun.IsMessage(packet) {
		return false
	}
	var t stun.MessageType
	t.ReadValue(uint16(packet[0])<<8 | uint16(packet[1]))
	return t.Class == stun.ClassRequest && t.Method != stun.MethodBinding
}
