package signal

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// siege is one address that does not stop to take what it can get, beside a room of two at another address.
type siege struct {
	*testServer
	calm   [2]*peer
	rounds int
	began  time.Time
	over   chan struct{}
	all    sync.WaitGroup
}

// besieger is where those come from who do not stop.
var besieger = net.IPv4(127, 0, 0, 2)

func layIn(t *testing.T, change ...func(*Config)) *siege {
	s := start(t, append([]func(*Config){func(c *Config) { c.TrustedProxies = []string{"127.0.0.1"} }}, change...)...)
	g := &siege{testServer: s, calm: [2]*peer{s.enter("calm"), s.enter("calm")}, over: make(chan struct{})}
	g.calm[0].expect("user_joined")
	g.began = time.Now()
	return g
}

// each runs that many goroutines until the siege is over.
func (g *siege) each(n int, besiege func(i int)) {
	for i := range n {
		g.all.Go(func() {
			for !g.isOver() {
				besiege(i)
			}
		})
	}
}

func (g *siege) isOver() bool {
	select {
	case <-g.over:
		return true
	default:
		return false
	}
}

// end ends the siege when enough says so. Meanwhile those at the other address go on, and what the one address has is within the bounds.
func (g *siege) end(enough func() bool) {
	g.t.Helper()
	defer g.all.Wait()
	defer close(g.over)
	pace := time.NewTicker(20 * time.Millisecond) // Half of what each of them may say.
	defer pace.Stop()
	for late := time.Now().Add(patience); !enough() || g.rounds < 50; g.rounds++ {
		<-pace.C
		from, to := g.calm[g.rounds%2], g.calm[(g.rounds+1)%2]
		from.say(fmt.Sprintf(`{"type":"message","id":"%d","data":%d}`, g.rounds, g.rounds))
		from.expect("ack")
		to.expect("message")
		if most := 2 * g.cfg.AddrConns; g.places() > most || len(g.everybody()) > g.cfg.AddrConns+len(g.calm) {
			g.t.Errorf("the address has %d places, all %d participants", g.places(), len(g.everybody()))
		}
		if time.Now().After(late) {
			g.t.Fatal("it lasts too long")
		}
	}
}

// places returns how many places the address has.
func (g *siege) places() int {
	g.addrs.mu.Lock()
	defer g.addrs.mu.Unlock()
	if a := g.addrs.known[netip.MustParsePrefix("127.0.0.2/32")]; a != nil {
		return a.places
	}
	return 0
}

// within fails when a counter is above what a limit allows since the siege began.
func (g *siege) within(what string, c prometheus.Counter, l limit) {
	g.t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		g.t.Fatal(err)
	}
	elapsed := time.Since(g.began)
	most := g.cfg.limit(l) * (addressBurst + elapsed.Seconds())
	g.t.Logf("%v %s in %v, of which %v may be", m.GetCounter().GetValue(), what, elapsed, most)
	if got := m.GetCounter().GetValue() - float64(len(g.calm)); got > most+1 {
		g.t.Errorf("%v %s in %v, want %v at most", got, what, elapsed, most)
	}
}

func (g *siege) dial(query string) (*websocket.Conn, error) {
	d := websocket.Dialer{NetDialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: besieger}}).DialContext}
	c, _, err := d.DialContext(g.t.Context(), strings.Replace(g.url, "http", "ws", 1)+"/ws"+query, nil)
	return c, err
}

// pause is between two attempts of somebody who was refused.
func (g *siege) pause() {
	select {
	case <-g.over:
	case <-time.After(5 * time.Millisecond):
	}
}

// TestJoinFlood has one address join ever new rooms, as fast as it can, with new connections in place of those that are closed.
func TestJoinFlood(t *testing.T) {
	g := layIn(t, func(c *Config) { c.AddrMessages = 200 })
	var sent, closed atomic.Int64
	const flooders = 8
	g.each(flooders, func(i int) {
		c, err := g.dial("")
		if err != nil {
			g.pause()
			return
		}
		_ = c.NetConn().(*net.TCPConn).SetWriteBuffer(4 << 10) // So it waits until the server reads, as it would from afar.
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, c.NetConn())
		}()
		for err == nil && !g.isOver() {
			room := fmt.Sprintf(`{"type":"join_room","data":{"room_id":"flood-%d-%d"}}`, i, sent.Add(1))
			err = c.WriteMessage(websocket.TextMessage, []byte(room))
		}
		closed.Add(1)
		_ = c.Close()
		<-read
	})
	g.end(func() bool { return sent.Load() > 10_000 && closed.Load() > flooders })
	g.within("joins", g.metrics.messages[joinRoom][outcomeOK], limitAddressMessages)
	g.within("new connections", g.metrics.accepted, limitAddressUpgrades)
}

// TestResumeLoop has 64 members lose their connections as soon as they have them, and come back at once. At the end they are all there.
func TestResumeLoop(t *testing.T) {
	g := layIn(t, func(c *Config) { c.ResumeGrace = time.Hour })
	var refused, resumed atomic.Int64
	members := make([]struct{ token, user string }, g.cfg.AddrConns)
	comeIn := func(i int) (*websocket.Conn, error) {
		m := &members[i]
		c, err := g.dial("?resume=" + m.token)
		if err != nil {
			refused.Add(1)
			return nil, err
		}
		var hello struct {
			UserID string `json:"user_id"`
			Data   struct {
				Token   string `json:"resume_token"`
				Resumed bool
			}
		}
		if err := c.ReadJSON(&hello); err != nil || hello.Data.Token == "" {
			return c, err
		}
		if m.user != "" && (hello.UserID != m.user || !hello.Data.Resumed) {
			t.Errorf("%s came back as %s", m.user, hello.UserID)
		}
		m.user, m.token = hello.UserID, hello.Data.Token
		resumed.Add(1)
		return c, nil
	}
	g.each(len(members), func(i int) {
		if c, _ := comeIn(i); c != nil {
			_ = c.NetConn().Close()
			return
		}
		g.pause()
	})
	g.end(func() bool { return refused.Load() > 1000 && resumed.Load() > 150 })
	g.within("new connections", g.metrics.accepted, limitAddressUpgrades)
	for i := range members {
		var c *websocket.Conn
		eventually(t, "a member comes back", func() bool {
			var err error
			c, err = comeIn(i)
			return err == nil
		})
		t.Cleanup(func() { _ = c.Close() })
	}
}

// ask writes requests to a connection without waiting for answers.
func (g *siege) ask(requests int) net.Conn {
	g.t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: besieger}}).DialContext(g.t.Context(), "tcp", g.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	_, _ = io.WriteString(conn, strings.Repeat("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", requests)) // It may be closed already.
	return conn
}

// TestRequestsWaitForTheirTurn sends many requests at once. They are answered as fast as the address may ask, and others at once.
func TestRequestsWaitForTheirTurn(t *testing.T) {
	g := layIn(t, func(c *Config) { c.AddrRequests = 50 })
	const beyond = 100 // They take longer than the siege.
	answers := bufio.NewReader(g.ask(addressBurst*50 + beyond))
	g.end(func() bool { return g.reached(limitAddressRequests) > 0 })
	for range addressBurst*50 + beyond {
		res, err := http.ReadResponse(answers, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%v (%v)", res, err)
		}
		var health struct{ Status string }
		if err := json.NewDecoder(res.Body).Decode(&health); err != nil || health.Status != "ok" {
			t.Fatalf("%+v (%v)", health, err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
	}
	if elapsed := time.Since(g.began); elapsed < beyond*time.Second/50 {
		t.Errorf("%d requests above those at once were answered after %v", beyond, elapsed)
	}
}

// TestWaitingRequestEndsWithItsClient: nobody waits for who is gone, nor for a server that ends.
func TestWaitingRequestEndsWithItsClient(t *testing.T) {
	g := layIn(t, func(c *Config) { c.AddrRequests = 0.25 })
	first, second := g.ask(2), g.ask(1)
	eventually(t, "two wait", func() bool { return g.reached(limitAddressRequests) == 2 })
	_ = first.Close()
	eventually(t, "one is gone", func() bool { return g.callers.count() == 1 })
	g.stop()
	if n, err := second.Read(make([]byte, 1)); err == nil {
		t.Errorf("who waited when the server ended got %d bytes", n)
	}
}

// TestConnectionsThatComeTooFast are closed before they are read.
func TestConnectionsThatComeTooFast(t *testing.T) {
	g := layIn(t, func(c *Config) { c.AddrRequests = 1 })
	close(g.over)
	for i, want := range []bool{true, false, false} {
		n, _ := g.ask(1).Read(make([]byte, 1))
		if answered := n > 0; answered != want {
			t.Errorf("connection %d: answered %v, want %v", i, answered, want)
		}
	}
	if n := g.sum("signal_http_connections_cut_total", "reason", "rate"); n != 2 {
		t.Errorf("%v connections were cut", n)
	}
}
