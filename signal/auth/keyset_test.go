package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// source serves a key set that changes.
type source struct {
	*httptest.Server
	status  atomic.Int32
	keys    atomic.Pointer[[]byte]
	fetches atomic.Int32
}

func newSource(t testing.TB, keys []byte) *source {
	s := new(source)
	s.status.Store(http.StatusOK)
	s.keys.Store(&keys)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.fetches.Add(1)
		w.WriteHeader(int(s.status.Load()))
		_, _ = w.Write(*s.keys.Load())
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKeysFromAURL(t *testing.T) {
	ps := pairs()
	s := newSource(t, jwks(t, ps["ES256"]))
	d := newDoor(t, func(c *Config) { c.JWKS = s.URL })
	if err := d.Ready(); err == nil {
		t.Error("ready without keys")
	}
	running(t, d)
	token := signed(t, ps["ES256"].method, ps["ES256"].private, "e", nil)
	if _, err := d.Enter(t.Context(), tokenRequest(token)); err != nil { // It waits for the first fetch.
		t.Error(err)
	}
	if err := d.Ready(); err != nil || d.Problems() != nil {
		t.Errorf("with keys: %v, %q", err, d.Problems())
	}
}

// scripted is a key set whose source is the test.
func scripted(t *testing.T, every time.Duration, read func() ([]key, error)) *Door {
	k := &keySet{every: every, limit: 5 * time.Second, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), attempt: make(chan struct{}),
		read: func(context.Context) ([]key, error) { return read() }}
	return running(t, &Door{verifier: verifierOf(k)})
}

func verifierOf(k *keySet) *verifier {
	v := &verifier{keys: k, parser: jwt.NewParser()}
	v.setSecrets(nil)
	return v
}

// TestKeysOverTime tells what tokens are worth while the source of the keys goes, comes back, and gets and loses keys.
func TestKeysOverTime(t *testing.T) {
	ps := pairs()
	parsed := func(names ...string) (keys []key) {
		for _, name := range names {
			k, err := ps[name].jwk.key()
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, k)
		}
		return keys
	}
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var mu sync.Mutex
		var keys []key
		failure, reads := down, 0
		d := scripted(t, time.Hour, func() ([]key, error) {
			mu.Lock()
			defer mu.Unlock()
			reads++
			return keys, failure
		})
		serve := func(now []key, why error) {
			mu.Lock()
			defer mu.Unlock()
			keys, failure = now, why
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return reads
		}
		token := func(alg string) Request {
			return tokenRequest(signed(t, ps[alg].method, ps[alg].private, ps[alg].jwk.ID, jwt.MapClaims{"exp": time.Now().Add(time.Hour * 100).Unix()}))
		}
		expect := func(when, alg string, want Reason) {
			t.Helper()
			if _, err := d.Enter(t.Context(), token(alg)); reasonOf(t, err) != want {
				t.Errorf("%s a token by %s: %v, want %q", when, alg, err, want)
			}
		}
		expect("before the keys can be had", "ES256", ReasonUnavailable)
		if d.Ready() == nil {
			t.Error("ready without keys")
		}
		serve(parsed("ES256"), nil)
		time.Sleep(retryFetch + time.Second)
		expect("with keys", "ES256", "")
		before := count()
		for range 100 {
			expect("just after a fetch", "EdDSA", ReasonKey)
		}
		if now := count(); now != before {
			t.Errorf("%d fetches within %v", now-before, minFetch)
		}
		time.Sleep(minFetch)
		serve(parsed("ES256", "EdDSA"), nil)
		expect("a new key", "EdDSA", "")
		if now := count(); now != before+1 {
			t.Errorf("%d fetches for a new key", now-before)
		}
		serve(nil, down)
		time.Sleep(2 * time.Hour)
		expect("the source is down", "ES256", "")
		if d.Ready() != nil || len(d.Problems()) != 1 {
			t.Errorf("down: %v, %q", d.Ready(), d.Problems())
		}
		serve(parsed("EdDSA"), nil)
		time.Sleep(2 * time.Hour)
		expect("a key withdrawn", "ES256", ReasonKey)
		expect("beside that", "EdDSA", "")
		serve([]key{}, nil)
		time.Sleep(2 * time.Hour)
		expect("all withdrawn", "EdDSA", ReasonKey)
	})
}

// TestFetchesAreBounded has sources that answer with too much, with nothing, somewhere else or not at all.
func TestFetchesAreBounded(t *testing.T) {
	s := newSource(t, jwks(t, pairs()["ES256"]))
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxDocument+1)) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, s.URL, http.StatusFound) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	bad := httptest.NewServer(mux)
	defer bad.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, path := range []string{"/long?key=hidden", "/moved?key=hidden", "/none?key=hidden", "/hang?key=hidden"} {
		ctx := ctx
		if !strings.HasPrefix(path, "/hang") {
			ctx = t.Context()
		}
		if keys, err := fetchKeys(ctx, newClient(), bad.URL+path); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, %v", path, keys, err)
		}
	}
	if keys, err := fetchKeys(t.Context(), newClient(), s.URL); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
}
