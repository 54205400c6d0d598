package signal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	dto "github.com/prometheus/client_model/go"

	"cline-meet/signal/signal/client"
)

func TestBucket(t *testing.T) {
	p := newPace(10, 2)
	var b bucket
	for _, test := range []struct {
		now  time.Duration
		want int
	}{{0, 20}, {0, 0}, {time.Second, 10}, {time.Second, 0}, {time.Hour, 20}} {
		got := 0
		for b.take(p, test.now) == 0 {
			got++
		}
		if got != test.want {
			t.Errorf("at %v: %d, want %d", test.now, got, test.want)
		}
	}
	if wait := b.take(p, time.Hour); wait != 100*time.Millisecond {
		t.Errorf("an empty bucket of 10 a second: wait %v", wait)
	}
	if b.isFull(time.Hour) || !b.isFull(time.Hour+2*time.Second) {
		t.Error("a bucket of two seconds is full after another time")
	}
	for _, never := range []pace{newPace(0, 4), newPace(1e13, 4)} {
		for range 1000 {
			if b.take(never, 0) > 0 {
				t.Fatal("no limit has a limit")
			}
		}
	}
	rare := newPace(0.01, 4) // Less than one in four seconds is one at once.
	var slow bucket
	if slow.take(rare, 0) > 0 || slow.take(rare, 0) != 100*time.Second {
		t.Error("a rate of one in 100 seconds is none")
	}
}

func TestBucketIsSharedByGoroutines(t *testing.T) {
	p := newPace(1000, 1)
	var b bucket
	var wg sync.WaitGroup
	counts := make([]int, 8)
	for i := range counts {
		wg.Go(func() {
			for range 1000 {
				if b.take(p, time.Second) == 0 {
					counts[i]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range counts {
		sum += n
	}
	if sum != 1000 {
		t.Errorf("%d of 1000", sum)
	}
}

// TestAddressesAreForgotten has more addresses come than are remembered.
func TestAddressesAreForgotten(t *testing.T) {
	as := newAddresses(addressLimits{places: 1, credentials: newPace(0.001, 1)}, 0)
	at := func(i int) netip.Prefix {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)})
		return netip.PrefixFrom(a, 64)
	}
	held, reached, _ := as.connect(at(0), false)
	if reached != noLimit {
		t.Fatal(reached)
	}
	as.of(at(1)).credentials.take(as.limits.credentials, uptime())
	for i := range 2 * maxAddresses {
		as.of(at(i + 2))
	}
	if n := as.count(); n > maxAddresses {
		t.Errorf("%d addresses are known", n)
	}
	if as.of(at(0)) != held {
		t.Error("an address that holds a place was forgotten")
	}
	for i := range 2 * maxAddresses { // None of them is idle.
		as.of(at(i+2)).credentials.take(as.limits.credentials, uptime())
	}
	if n := as.count(); n > maxAddresses+1 || as.of(at(0)) != held {
		t.Errorf("%d busy addresses are known", n)
	}
	as.limits.credentials = pace{}
	for _, a := range as.known {
		a.credentials.full.Store(0)
	}
	as.swept = -sweepInterval
	as.sweep()
	if n := as.count(); n != 1 {
		t.Errorf("%d idle addresses are known", n-1)
	}
}

// refused dials and returns the status and the delay of the answer.
func (s *testServer) refused(query string) (status int, retry string) {
	s.t.Helper()
	c, res, err := websocket.DefaultDialer.DialContext(s.t.Context(), "ws"+strings.TrimPrefix(s.url, "http")+"/ws"+query, nil)
	if err == nil {
		_ = c.Close()
		s.t.Fatal("connected")
	}
	if res == nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Retry-After")
}

func (s *testServer) reached(l limit) int {
	s.t.Helper()
	var m dto.Metric
	if err := s.metrics.limits[l].Write(&m); err != nil {
		s.t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}

// TestMembersWhoAreAwayHoldTheirPlaces: who loses the network does not get another place by that, and comes back also
// when there is none.
func TestMembersWhoAreAwayHoldTheirPlaces(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrConns, c.AddrUpgrades, c.ResumeGrace = 3, 0, time.Hour })
	var members []*peer
	for range 3 {
		p := s.enter("r")
		p.cookie()
		members = append(members, p)
		p.Cut()
		eventually(t, "it is away", func() bool { return s.Connections() == 0 && s.detached() == len(members) })
	}
	if status, retry := s.refused(""); status != http.StatusTooManyRequests || retry == "" {
		t.Errorf("a fourth one got %d, Retry-After %q", status, retry)
	}
	if status, _ := s.refused("?resume=x" + members[0].token()); status != http.StatusTooManyRequests {
		t.Errorf("a made-up token got %d", status)
	}
	if s.reached(limitAddressConnections) != 2 {
		t.Errorf("%d refusals are counted", s.reached(limitAddressConnections))
	}
	for i, p := range members {
		_, back, g := p.back(s)
		if !g.Resumed {
			t.Fatalf("member %d was not resumed: %s", i, back.hub.Raw)
		}
		members[i] = back
	}
	if status, _ := s.refused(""); status != http.StatusTooManyRequests {
		t.Errorf("a fourth one beside three who are back got %d", status)
	}
	for range 3 { // Again and again.
		_, members[0], _ = members[0].back(s)
	}
	_ = members[0].Close()
	eventually(t, "who has left gives the place back", func() bool {
		c, err := client.Dial(t.Context(), s.url+"/ws", nil)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

// TestPlacesAreGivenBack ends participants in every way there is.
func TestPlacesAreGivenBack(t *testing.T) {
	s := start(t, func(c *Config) { c.ResumeGrace, c.MaxQueue = time.Second, 2*c.MaxFrame })
	leaver, expires, overflows, kicked := s.enter("r"), s.enter("r"), s.enter("r"), s.enter("r")
	sender := s.enter("s")
	_ = leaver.Close()
	expires.Cut()
	overflows.Cut()
	_ = sender.Join("r")
	s.participant(kicked.user).lose("test")
	_ = sender.Close()
	eventually(t, "all are gone", func() bool { return len(s.everybody()) == 0 })
	eventually(t, "all places are free", func() bool {
		s.addrs.mu.Lock()
		defer s.addrs.mu.Unlock()
		return s.addrs.open == 0 && !slices.ContainsFunc(addressesOf(s.addrs), func(a *address) bool { return a.places != 0 })
	})
}

func addressesOf(as *addresses) (all []*address) {
	for _, a := range as.known {
		all = append(all, a)
	}
	return all
}

// TestMaxConnections: over it nobody comes in by a WebSocket, and all else is answered.
func TestMaxConnections(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxConns = 2 })
	s.dial(nil)
	s.dial(nil)
	if status, retry := s.refused(""); status != http.StatusServiceUnavailable || retry == "" {
		t.Errorf("got %d, Retry-After %q", status, retry)
	}
	if s.reached(limitConnections) != 1 {
		t.Error("the refusal is not counted")
	}
	if res, _ := s.get("/health", nil); res.StatusCode != http.StatusOK {
		t.Errorf("/health: %s", res.Status)
	}
}

func TestUpgradeRate(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrUpgrades = 0.001 })
	p := s.dial(nil)
	status, retry := s.refused("")
	if seconds, _ := strconv.Atoi(retry); status != http.StatusTooManyRequests || seconds < 900 {
		t.Errorf("got %d, Retry-After %q", status, retry)
	}
	p.cookie()
	p.Cut()
	if status, _ := s.refused("?resume=" + p.token()); status != http.StatusTooManyRequests {
		t.Errorf("who resumes got %d", status)
	}
	if s.reached(limitAddressUpgrades) != 2 {
		t.Errorf("%d refusals are counted", s.reached(limitAddressUpgrades))
	}
}

// TestMessageRateOfAnAddress: a new connection brings no new burst.
func TestMessageRateOfAnAddress(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrMessages, c.MessageRate, c.MessageBurst = 0.001, 1000, 4000 })
	first, second := s.dial(nil), s.dial(nil)
	first.say(`{"type":"leave_room","id":"1"}`)
	first.expectError(409)
	for _, p := range []*peer{second, first} {
		p.say(`{"type":"leave_room","id":"2"}`)
		if id, text := p.expectError(429); id != "2" || !strings.Contains(text, "wait") {
			t.Errorf("%q with id %q", text, id)
		}
	}
	if s.reached(limitAddressMessages) != 2 || s.reached(limitMessages) != 0 {
		t.Errorf("%d and %d refusals are counted", s.reached(limitAddressMessages), s.reached(limitMessages))
	}
}

// TestControlFramesCostAsMuchAsMessages floods with pings and pongs.
func TestControlFramesCostAsMuchAsMessages(t *testing.T) {
	for _, kind := range []int{websocket.PingMessage, websocket.PongMessage} {
		s := start(t, func(c *Config) { c.MessageRate, c.MessageBurst = 0.001, 3 })
		p := s.dial(nil)
		for range 3 + faultBurst {
			if p.WebSocket().WriteControl(kind, []byte("x"), time.Now().Add(patience)) != nil {
				break
			}
		}
		if err := p.ended(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("%d: ended with %v", kind, err)
		}
		if s.reached(limitMessages) < faultBurst/10 {
			t.Errorf("%d refusals are counted", s.reached(limitMessages))
		}
	}
}

func TestCredentialRate(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrCredits = 0.001 })
	p := s.dial(nil) // The greeting is the connection's.
	p.say(`{"type":"stun_config","id":"1"}`)
	p.expect("stun_config")
	p.expect("ack")
	p.say(`{"type":"stun_config","id":"2"}`)
	if id, _ := p.expectError(429); id != "2" {
		t.Errorf("id %q", id)
	}
	res, _ := s.get("/ice", p.cookie())
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("/ice: %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
	}
	if s.reached(limitAddressCredentials) != 2 {
		t.Errorf("%d refusals are counted", s.reached(limitAddressCredentials))
	}
}

// TestLimitsAreTold compares the gauges with the settings, and what follows from others.
func TestLimitsAreTold(t *testing.T) {
	c := DefaultConfig()
	c.AddrConns, c.MessageRate, c.MaxConns = 100, 10, 7
	for l, want := range map[limit]float64{limitConnections: 7, limitAddressConnections: 100, limitAddressUpgrades: 50,
		limitAddressMessages: 1000, limitAddressCredentials: 50, limitMessages: 10} {
		if got := c.limit(l); got != want {
			t.Errorf("%v is %v, want %v", l, got, want)
		}
	}
	known := c.Settings()
	for l := noLimit + 1; l < limits; l++ {
		known.Pick(l.String()) // Panics when it is not the name of a setting.
	}
}

// TestProxiesAreSeenThrough counts clients and not the proxy that they come by, whose connections are no client's.
func TestProxiesAreSeenThrough(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrConns, c.TrustedProxies = 1, []string{"127.0.0.1"} })
	from := func(addr string) (*client.Client, error) {
		return client.Dial(t.Context(), s.url+"/ws", http.Header{"X-Forwarded-For": {addr}})
	}
	for _, addr := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
		c, err := from(addr)
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::ffff"} {
		if _, err := from(addr); err == nil {
			t.Errorf("a second one of %s has come in", addr)
		}
	}
}

var errRefused = errors.New("refused")

// TestOfficeComesBack has as many clients as an address may have lose their network at once, and come back at once.
func TestOfficeComesBack(t *testing.T) {
	s := start(t)
	var office []*peer
	for i := range s.cfg.AddrConns {
		p := s.enter(fmt.Sprint("r", i/10))
		p.cookie()
		office = append(office, p)
	}
	for _, p := range office {
		p.Cut()
		for _, err := p.Next(t.Context()); err == nil; _, err = p.Next(t.Context()) {
			continue
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(office))
	for i, p := range office {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := p.Resume(ctx, s.url+"/ws", p.header)
			if err != nil {
				errs[i] = err
				return
			}
			defer func() { _ = c.Close() }()
			m, err := c.Next(ctx)
			if g, bad := m.Greeting(); err != nil || bad != nil || !g.Resumed {
				errs[i] = errors.Join(errRefused, err, bad)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
