package signal

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/signal/client"
)

// TestCallersMakeRoom: an address has its bound, all together have theirs, and the oldest go first.
func TestCallersMakeRoom(t *testing.T) {
	v := &callers{perAddress: 2, many: 3, most: 4, places: map[netip.Prefix]int{}, known: nil}
	v.known = newCallers(new(Config), new(trusted), nil, nil).known
	var conns []net.Conn
	arrive := func(addr int, came time.Duration) (pushed net.Conn, reason string) {
		conn, other := net.Pipe()
		t.Cleanup(func() { _, _ = conn.Close(), other.Close() })
		conns = append(conns, conn)
		return v.add(caller{conn, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(addr)}), 32), came})
	}
	for i, step := range []struct {
		addr   int
		came   time.Duration
		pushed int
		reason string
	}{
		{1, 0, -1, ""}, {1, 0, -1, ""}, {1, 0, 2, "address"}, {2, 0, -1, ""},
		{3, requestTime, -1, ""}, // Many, but the oldest may still be at its request.
		{4, requestTime, 0, "total"},
		{5, 3 * requestTime, 1, "total"}, {1, 3 * requestTime, 3, "total"},
	} {
		pushed, reason := arrive(step.addr, step.came)
		if reason != step.reason || step.pushed >= 0 && pushed != conns[step.pushed] || step.pushed < 0 && pushed != nil {
			t.Errorf("step %d: %v, %q", i, pushed != nil, reason)
		}
	}
	for range 2 {
		for _, c := range conns {
			v.leave(c)
		}
	}
	if v.count() != 0 || len(v.places) != 0 || len(v.known) != 0 {
		t.Errorf("%d, %v are left", v.count(), v.places)
	}
}

// TestHalfOpenUpgrades has one address begin requests and not end them. It gets no more connections than its bound, another
// address is served, and what it had is free at the end.
func TestHalfOpenUpgrades(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrConns, c.AddrRequests = 2, 0 })
	var held []net.Conn
	ended := make(chan error, 3*requestsEach*2)
	for range cap(ended) {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgr") // It may be closed already.
		go func() {
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		}()
	}
	for range 2 * requestsEach * 2 { // All that are more than the bound.
		if err := <-ended; err == nil {
			t.Fatal("half a request has an answer")
		}
	}
	if n := s.callers.count(); n != requestsEach*2 {
		t.Errorf("%d connections are left", n)
	}
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other := http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
	res, err := other.Get(s.url + "/health")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("another address got %v (%v)", res, err)
	} else {
		_ = res.Body.Close()
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	eventually(t, "all are gone", func() bool { return s.callers.count() == 0 })
	c, err := client.Dial(t.Context(), s.url+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a WebSocket is no caller", func() bool { return s.callers.count() == 0 })
	_ = c.Close()
}

// TestProxiesAreNoCallers: the connections of a proxy are many, and no client's.
func TestProxiesAreNoCallers(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrConns, c.TrustedProxies = 1, []string{"127.0.0.1"} })
	for i := range 3 * requestsEach {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "GET /health HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
		answer := make([]byte, 16)
		_, failed := io.ReadFull(conn, answer)
		if err := errors.Join(err, failed); err != nil || !strings.Contains(string(answer), " 200 ") {
			t.Fatalf("connection %d: %q (%v)", i, answer, err)
		}
	}
}
