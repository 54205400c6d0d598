package signal_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/logging"
	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"
	"golang.org/x/time/rate"

	"cline-meet/signal/packaging/systemtest"
)

// An office is as many people behind one address as come in by default, in rooms of as many as these hold.
const (
	officeUsers = 64
	roomUsers   = 10
	// officeShare is how many relays one address may have by default.
	officeShare = 2048
	// officePace is how many relays a second the office asks for, which is below --turn-allocate-rate.
	officePace = 400
)

var insecure = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // self-signed

// TestOfficeBehindOneAddress has 64 people come in from one address by default settings. In rooms of 10 each has a peer connection to
// each other, which takes a relay for each TURN URL: over UDP, TCP and TLS. Then a stranger at the address takes all that he
// gets, as one user after another, and somebody at another address finds a relay all the same.
func TestOfficeBehindOneAddress(t *testing.T) {
	certFile, keyFile := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "127.0.0.1"))
	n := systemtest.StartNode(t, "--tls-cert", certFile, "--tls-key", keyFile, "--drain-timeout", "1")
	o := &office{url: n.URL, pace: rate.NewLimiter(officePace, officePace)}
	defer o.close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*systemtest.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for part := range 8 { // Eight at a time.
		wg.Go(func() {
			for i := part; i < officeUsers; i += 8 {
				if err := o.comeIn(ctx, i); err != nil {
					t.Errorf("user %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	want := 0
	for i := range officeUsers {
		want += 3 * others(i)
	}
	if len(o.relays) != want {
		t.Errorf("the office has %d relays, want %d", len(o.relays), want)
	}
	o.bringStranger(ctx, t)
	there := &office{url: n.URL, pace: rate.NewLimiter(rate.Inf, 1), from: net.IPv4(127, 0, 0, 2)}
	defer there.close()
	server, err := there.mint(ctx)
	if err == nil {
		err = there.allocate(ctx, server.udp(), server)
	}
	if err != nil {
		t.Errorf("somebody at another address: %v", err)
	}
}

// others returns how many others are in the room of user i.
func others(i int) int { return min(roomUsers, officeUsers-i/roomUsers*roomUsers) - 1 }

// office is the clients of one address.
type office struct {
	url  string
	from net.IP // nil for the usual
	pace *rate.Limiter

	mu      sync.Mutex
	sockets []*websocket.Conn
	relays  []*relayClient
}

func (o *office) close() {
	var wg sync.WaitGroup
	for _, r := range o.relays {
		wg.Go(r.close)
	}
	wg.Wait()
	for _, c := range o.sockets {
		_ = c.Close()
	}
}

// iceServer is what a browser makes peer connections with.
type iceServer struct {
	URLs                 []string
	Username, Credential string
}

// udp returns the URL of TURN over UDP.
func (s iceServer) udp() string { return s.URLs[0] }

// comeIn has user i connect, join and take the relays of its peer connections.
func (o *office) comeIn(ctx context.Context, i int) error {
	dialer := websocket.Dialer{TLSClientConfig: insecure}
	ws, _, err := dialer.DialContext(ctx, strings.Replace(o.url, "http", "ws", 1)+"ws", nil)
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.sockets = append(o.sockets, ws)
	o.mu.Unlock()
	var hello struct {
		Type   string
		UserID string `json:"user_id"`
		Data   struct{ ICEServers []iceServer }
	}
	join := map[string]any{"type": "join_room", "data": map[string]string{"room_id": fmt.Sprint("room-", i/roomUsers)}}
	if err := errors.Join(ws.ReadJSON(&hello), ws.WriteJSON(join)); err != nil {
		return err
	}
	for {
		var m struct {
			Type   string
			UserID string `json:"user_id"`
		}
		if err := ws.ReadJSON(&m); err != nil || m.Type == "room_full" || m.Type == "error" {
			return fmt.Errorf("joining: %s (%w)", m.Type, err)
		}
		if m.Type == "user_joined" && m.UserID == hello.UserID {
			break
		}
	}
	server := hello.Data.ICEServers[len(hello.Data.ICEServers)-1]
	for range others(i) {
		for _, url := range server.URLs {
			if err := o.allocate(ctx, url, server); err != nil {
				return fmt.Errorf("%s: %w", url, err)
			}
		}
	}
	return nil
}

// bringStranger takes new users and relays for them until there are no more for the address.
func (o *office) bringStranger(ctx context.Context, t *testing.T) {
	for len(o.relays) < officeShare {
		server, err := o.mint(ctx)
		if err != nil {
			t.Fatalf("with %d relays: %v", len(o.relays), err)
		}
		for range min(32, officeShare-len(o.relays)) {
			if err := o.allocate(ctx, server.udp(), server); err != nil {
				t.Fatalf("with %d relays: %v", len(o.relays), err)
			}
		}
	}
	server, err := o.mint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.allocate(ctx, server.udp(), server); err == nil || !strings.Contains(err.Error(), "486") {
		t.Errorf("one more than the share of an address: %v", err)
	}
}

// mint returns credentials of a new user, as anybody may have them.
func (o *office) mint(ctx context.Context) (server iceServer, err error) {
	dialer := &net.Dialer{}
	if o.from != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: o.from}
	}
	browser := http.Client{Transport: &http.Transport{TLSClientConfig: insecure, DialContext: dialer.DialContext}}
	defer browser.CloseIdleConnections()
	get := func(path string, cookies ...*http.Cookie) (*http.Response, error) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, o.url+path, nil)
		for _, c := range cookies {
			req.AddCookie(c)
		}
		return browser.Do(req)
	}
	page, err := get("")
	if err != nil {
		return server, err
	}
	defer func() { _ = page.Body.Close() }()
	ice, err := get("ice", page.Cookies()...)
	if err != nil {
		return server, err
	}
	defer func() { _ = ice.Body.Close() }()
	if ice.StatusCode != http.StatusOK {
		return server, fmt.Errorf("/ice: %s", ice.Status)
	}
	var doc struct{ ICEServers []iceServer }
	err = json.NewDecoder(ice.Body).Decode(&doc)
	return doc.ICEServers[len(doc.ICEServers)-1], err
}

// allocate takes one more relay.
func (o *office) allocate(ctx context.Context, url string, server iceServer) error {
	if err := o.pace.Wait(ctx); err != nil {
		return err
	}
	uri, err := stun.ParseURI(url)
	if err != nil {
		return err
	}
	conn, err := o.dial(ctx, uri)
	if err != nil {
		return err
	}
	r := &relayClient{conn: conn}
	if err := r.open(net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port)), server); err != nil {
		r.close()
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.relays = append(o.relays, r)
	return nil
}

// dial returns the transport to a TURN URL.
func (o *office) dial(ctx context.Context, uri *stun.URI) (net.PacketConn, error) {
	if uri.Proto == stun.ProtoTypeUDP {
		return net.ListenUDP("udp4", &net.UDPAddr{IP: o.from})
	}
	stream, err := new(net.Dialer).DialContext(ctx, "tcp4", net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port)))
	if err != nil {
		return nil, err
	}
	if uri.Scheme == stun.SchemeTypeTURNS {
		stream = tls.Client(stream, insecure)
	}
	return turn.NewSTUNConn(stream), nil
}

// relayClient is a TURN client with its relay.
type relayClient struct {
	conn   net.PacketConn
	client *turn.Client
	relay  net.PacketConn
}

func (r *relayClient) open(address string, server iceServer) (err error) {
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	r.client, err = turn.NewClient(&turn.ClientConfig{STUNServerAddr: address, TURNServerAddr: address, Conn: r.conn,
		Username: server.Username, Password: server.Credential, RTO: time.Second, LoggerFactory: quiet})
	if err != nil {
		return err
	}
	if err := r.client.Listen(); err != nil {
		return err
	}
	r.relay, err = r.client.Allocate()
	return err
}

func (r *relayClient) close() {
	if r.relay != nil {
		_ = r.relay.Close()
	}
	if r.client != nil {
		r.client.Close()
	}
	_ = r.conn.Close()
}
