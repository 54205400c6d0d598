package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// backend answers questions as the test says, and keeps the last one.
type backend struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(w http.ResponseWriter)
	header http.Header
	asked  map[string]string
}

func newBackend(t testing.TB) *backend {
	b := new(backend)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.header, b.asked = r.Header.Clone(), nil
		err := json.Unmarshal(text, &b.asked)
		answer := b.answer
		b.mu.Unlock()
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("asked by %s with %s", r.Method, text)
		}
		answer(w)
	}))
	t.Cleanup(b.Close)
	return b
}

// says makes the backend answer with a status and a body.
func (b *backend) says(status int, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = func(w http.ResponseWriter) {
		w.Header().Set("Location", "/login")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func (b *backend) last() (http.Header, map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.header, b.asked
}

func TestHook(t *testing.T) {
	b := newBackend(t)
	d := running(t, newDoor(t, func(c *Config) { c.URL, c.Timeout = b.URL, maxTimeout }))
	r := httptest.NewRequest(http.MethodGet, "/ws", nil)
	r.Header = http.Header{"Cookie": {"a=1", "b=2"}, "Origin": {"https://app.example"}, "Authorization": {"Basic eDp5"}}
	request := d.Read(r, "192.0.2.7")
	if !d.Waits() || d.Ready() != nil {
		t.Error("a hook is ready, and joins wait for it")
	}

	b.says(200, `{"sub":"ann","relay":true,"publish":false}`)
	c, err := d.Enter(t.Context(), request)
	if err != nil || c.Subject != "ann" || !c.Relay || c.Publish || !c.Allows("any") || !c.Expires.IsZero() {
		t.Fatalf("%+v, %v", c, err)
	}
	header, asked := b.last()
	if header.Get("Cookie") != "a=1; b=2" || header.Get("Authorization") != "Basic eDp5" {
		t.Errorf("headers %v", header)
	}
	if asked["kind"] != "connect" || asked["origin"] != "https://app.example" || asked["address"] != "192.0.2.7" || len(asked) != 3 {
		t.Errorf("asked %v", asked)
	}

	b.says(204, "")
	joined, err := d.Join(t.Context(), c, request.With("fresh"), "user-1", "r")
	if err != nil || joined != c {
		t.Errorf("a yes without a word: %+v, %v", joined, err)
	}
	header, asked = b.last()
	if header.Get("Authorization") != "Bearer fresh" || asked["kind"] != "join" || asked["room"] != "r" || asked["user_id"] != "user-1" || asked["sub"] != "ann" {
		t.Errorf("asked %v with %v", asked, header)
	}
	b.says(200, `{"moderate":true}`)
	if joined, err := d.Join(t.Context(), c, request, "user-1", "r"); err != nil || !joined.Moderate || joined.Relay || joined.Subject != "ann" {
		t.Errorf("other claims in a room: %+v, %v", joined, err)
	}
	b.says(200, `{"sub":"bob"}`)
	if _, err := d.Join(t.Context(), c, request, "user-1", "r"); reasonOf(t, err) != ReasonSubject {
		t.Errorf("somebody else's claims: %v", err)
	}
	b.says(200, `{"rooms":["x"]}`)
	if _, err := d.Join(t.Context(), c, request, "user-1", "r"); reasonOf(t, err) != ReasonRoom {
		t.Errorf("claims for another room: %v", err)
	}
	b.says(200, `{"allow":false}`)
	if _, err := d.Join(t.Context(), c, request, "user-1", "r"); reasonOf(t, err) != ReasonForbidden {
		t.Errorf("a no without claims: %v", err)
	}
	b.says(200, `{"rooms":["x"]}`)
	if _, err := d.Relay(t.Context(), request); reasonOf(t, err) != ReasonUnavailable {
		t.Errorf("claims of nobody: %v", err)
	}
	if _, asked = b.last(); asked["kind"] != "ice" {
		t.Errorf("asked %v", asked)
	}
}

// TestHookNeverOpens has a backend that says no, or nothing that can be understood.
func TestHookNeverOpens(t *testing.T) {
	b := newBackend(t)
	var log bytes.Buffer
	d := newDoor(t, func(c *Config) {
		c.URL, c.Timeout = strings.Replace(b.URL, "http://", "http://user:hidden@", 1)+"/?key=hidden", maxTimeout
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	running(t, d)
	for name, tt := range map[string]struct {
		status int
		body   string
		want   Reason
	}{
		"401":        {401, "", ReasonDenied},
		"403":        {403, "{}", ReasonForbidden},
		"404":        {404, "", ReasonUnavailable},
		"500":        {500, `{"sub":"ann"}`, ReasonUnavailable},
		"a redirect": {302, `{"sub":"ann"}`, ReasonUnavailable},
		"no body":    {200, "", ReasonUnavailable},
		"a page":     {200, "<html>", ReasonUnavailable},
		"nobody":     {200, "{}", ReasonUnavailable},
		"null":       {200, "null", ReasonUnavailable},
		"twice":      {200, `{"sub":"ann","sub":"bob"}`, ReasonUnavailable},
		"odd claims": {200, `{"sub":"ann","rooms":["a*b"]}`, ReasonUnavailable},
		"odd types":  {200, `{"sub":"ann","relay":"yes"}`, ReasonUnavailable},
		"too much":   {200, strings.Repeat(" ", maxDocument) + `{"sub":"ann"}`, ReasonUnavailable},
		"the past":   {200, `{"sub":"ann","exp":1}`, ReasonExpired},
		"a text":     {200, `{"sub":"ann","exp":"4000000000"}`, ReasonUnavailable},
		"a deny":     {200, `{"sub":"ann","allow":false}`, ReasonForbidden},
		"perhaps":    {200, `{"sub":"ann","allow":"no"}`, ReasonUnavailable},
		"false":      {200, `false`, ReasonUnavailable},
		"no list":    {200, `{"sub":"ann","rooms":null}`, ReasonUnavailable},
		"a teapot":   {418, `{"sub":"ann"}`, ReasonUnavailable},
	} {
		b.says(tt.status, tt.body)
		if c, err := d.Enter(t.Context(), Request{}); reasonOf(t, err) != tt.want || c != nil {
			t.Errorf("%s: %+v, %v, want %q", name, c, err, tt.want)
		}
	}
	b.Close()
	if _, err := d.Enter(t.Context(), Request{}); reasonOf(t, err) != ReasonUnavailable {
		t.Errorf("nobody listens: %v", err)
	}
	if n := strings.Count(log.String(), "does not answer"); n != 1 || strings.Contains(log.String(), "hidden") {
		t.Errorf("the log has %d warnings:\n%s", n, &log)
	}
}

// TestHookIsBounded asks more than may be under way of a backend that takes its time.
func TestHookIsBounded(t *testing.T) {
	const places, askers = 3, 12
	var now, most atomic.Int32
	full := make(chan struct{}) // closed once all places were taken
	open := sync.OnceFunc(func() { close(full) })
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if n == places {
			open()
		}
		<-full
		now.Add(-1) // Before the answer goes, which gives the place to another.
		_, _ = io.WriteString(w, `{"sub":"ann"}`)
	}))
	defer slow.Close()
	d := running(t, newDoor(t, func(c *Config) { c.URL, c.Timeout, c.Requests = slow.URL, maxTimeout, places }))
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			if _, err := d.Enter(t.Context(), Request{Address: fmt.Sprintf("192.0.2.%d", i)}); err != nil {
				t.Errorf("after a while: %v", err)
			}
		})
	}
	wg.Wait()
	if got := most.Load(); got != places {
		t.Errorf("%d requests were under way, want %d", got, places)
	}
}

// TestHookTakesNoLongerThanItMay has a backend that never answers, and a queue before it.
func TestHookTakesNoLongerThanItMay(t *testing.T) {
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer silent.Close()
	defer close(hang)
	d := running(t, newDoor(t, func(c *Config) { c.URL, c.Timeout, c.Requests = silent.URL, 50*time.Millisecond, 1 }))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := d.Enter(t.Context(), Request{})
			if reason := reasonOf(t, err); reason != ReasonUnavailable && reason != ReasonCrowded {
				t.Errorf("a backend that is silent: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestTrickle has a backend that begins its answer and never ends it, and one whose answer has too much of a header.
func TestTrickle(t *testing.T) {
	trickle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", map[string]int{"/long": 80 << 10}[r.URL.Path]))
		for r.Context().Err() == nil && r.URL.Path != "/long" {
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer trickle.Close()
	for _, path := range []string{"", "/long"} {
		d := running(t, newDoor(t, func(c *Config) { c.URL, c.Timeout = trickle.URL+path, 50*time.Millisecond }))
		if _, err := d.Enter(t.Context(), Request{}); reasonOf(t, err) != ReasonUnavailable {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestOneAddressLeavesPlaces has one address ask without end, of a backend that does not answer it. It has half of the places, with all addresses
// of a /64, and somebody else finds one.
func TestOneAddressLeavesPlaces(t *testing.T) {
	const places = 4
	asked, hang := make(chan string, 10*places), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Address string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if q.Address != "2001:db8:1::1" {
			asked <- q.Address
			<-hang
		}
		_, _ = io.WriteString(w, `{"sub":"ann"}`)
	}))
	defer slow.Close()
	d := running(t, newDoor(t, func(c *Config) { c.URL, c.Timeout, c.Requests = slow.URL, maxTimeout, places }))
	var greedy sync.WaitGroup
	for i := range 5 * places {
		greedy.Go(func() {
			if _, err := d.Enter(t.Context(), Request{Address: fmt.Sprintf("2001:db8::%d", i)}); err != nil {
				t.Errorf("who has waited for its turn: %v", err)
			}
		})
	}
	for range places / 2 {
		<-asked
	}
	for range 10 {
		if _, err := d.Enter(t.Context(), Request{Address: "2001:db8:1::1"}); err != nil {
			t.Errorf("somebody else: %v", err)
		}
	}
	if n := len(asked); n > 0 {
		t.Errorf("the address has %d places more than half", n)
	}
	close(hang)
	greedy.Wait()
	if p := d.hook.places; len(p.shares) > 0 || len(p.all) > 0 {
		t.Errorf("%d shares and %d places are left", len(p.shares), len(p.all))
	}
}

// TestStrangersRaiseNoAlarm has clients that do not wait, and tokens that no header can carry: neither says anything of the backend.
func TestStrangersRaiseNoAlarm(t *testing.T) {
	b := newBackend(t)
	b.says(200, `{"sub":"ann"}`)
	var log bytes.Buffer
	d := running(t, newDoor(t, func(c *Config) {
		c.URL, c.Query, c.Timeout, c.Logger = b.URL, true, maxTimeout, slog.New(slog.NewTextHandler(&log, nil))
	}))
	for _, token := range []string{"a\r\nX-Role: admin", "a\x00", "a\x7f", strings.Repeat("x", maxToken+1)} {
		r := httptest.NewRequest(http.MethodGet, "/ws", nil)
		r.URL.RawQuery = url.Values{"access_token": {token}}.Encode()
		if _, err := d.Enter(t.Context(), d.Read(r, "")); reasonOf(t, err) != ReasonMalformed {
			t.Errorf("%.20q: %v", token, err)
		}
		if _, _, err := d.Renew(t.Context(), &Claims{Subject: "ann"}, Request{}.With(token), "u", "r"); reasonOf(t, err) != ReasonMalformed {
			t.Errorf("%.20q as a fresh one: %v", token, err)
		}
	}
	if header, _ := b.last(); header != nil {
		t.Errorf("it was asked with %v", header)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := d.Enter(gone, Request{}); reasonOf(t, err) != ReasonUnavailable {
		t.Errorf("a client that is gone: %v", err)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", &log)
	}
}
