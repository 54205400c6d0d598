package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxDocument = 256 << 10        // bytes of a key set or of a backend's answer
	filePoll    = 5 * time.Second  // between readings of a file
	retryFetch  = 5 * time.Second  // between attempts while the keys cannot be had
	minFetch    = 10 * time.Second // between fetches because of a key that is not known, which strangers can cause
)

// keySet is the public keys of a file or URL. Its run reads them again and again, and when a token names a key that it
// does not have, because that may be new. While they cannot be had the last ones stay.
type keySet struct {
	read  func(ctx context.Context) ([]key, error)
	every time.Duration
	limit time.Duration
	log   *slog.Logger
	wake  chan struct{} // asks run for a reading

	mu      sync.Mutex
	keys    []key         // nil until they were read once
	failure error         // of the last attempt
	good    time.Time     // the last attempt that went well
	tried   time.Time     // the last attempt
	attempt chan struct{} // closed after the next attempt
}

// newKeySet returns the key set of a config. A file is read at once, a URL when run begins.
func newKeySet(cfg Config) (*keySet, error) {
	k := &keySet{every: cfg.Refresh, limit: cfg.Timeout, log: cfg.Logger, wake: make(chan struct{}, 1), attempt: make(chan struct{})}
	if isURL(cfg.JWKS) {
		client := newClient()
		k.read = func(ctx context.Context) ([]key, error) { return fetchKeys(ctx, client, cfg.JWKS) }
		return k, nil
	}
	k.every = filePoll
	k.read = func(context.Context) ([]key, error) { return readKeyFile(cfg.JWKS) }
	keys, err := k.read(context.Background())
	if err != nil {
		return nil, err
	}
	k.keys, k.good, k.tried = keys, time.Now(), time.Now()
	return k, nil
}

// run keeps the keys current until ctx ends.
func (k *keySet) run(ctx context.Context) {
	for {
		wait := k.update(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-k.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// update reads the keys once and returns when to read them next.
func (k *keySet) update(ctx context.Context) (wait time.Duration) {
	limited, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	keys, err := k.read(limited)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried = time.Now()
	switch {
	case ctx.Err() != nil:
	case err != nil && k.failure == nil:
		k.log.Warn("keys of tokens cannot be read, the last ones stay in use", "error", err)
	case err == nil && k.failure != nil:
		k.log.Info("keys of tokens can be read again")
	}
	if k.failure = err; err == nil {
		k.keys, k.good = keys, k.tried
	}
	close(k.attempt)
	k.attempt = make(chan struct{})
	select { // Who has asked meanwhile has its answer.
	case <-k.wake:
	default:
	}
	if err != nil {
		return min(k.every, retryFetch)
	}
	return k.every
}

// find returns the keys of which one must have signed a token: the one of its id, or without an id the only one for the
// algorithm. When there is none it may be new: then find waits until the keys were read again, unless that was
// just done.
func (k *keySet) find(ctx context.Context, alg, id string) (any, error) {
	found, retry := k.lookUp(alg, id)
	if retry == nil {
		return answer(found, k.loaded())
	}
	ctx, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	select {
	case <-retry:
	case <-ctx.Done():
	}
	found, _ = k.lookUp(alg, id)
	return answer(found, k.loaded())
}

func answer(found []jwt.VerificationKey, loaded bool) (any, error) {
	switch {
	case !loaded:
		return nil, &Error{ReasonUnavailable, "tokens cannot be verified now: try again"}
	case len(found) == 0:
		return nil, &Error{ReasonKey, "the key of the token is not known"}
	}
	return jwt.VerificationKeySet{Keys: found}, nil
}

// lookUp returns the keys for a token. When there are none and it makes sense to wait for another reading, which it
// asks for, retry is closed after that.
func (k *keySet) lookUp(alg, id string) (found []jwt.VerificationKey, retry <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fits := 0
	for _, key := range k.keys {
		if key.alg != alg {
			continue
		}
		fits++
		if id == "" || key.id == id {
			found = append(found, key.public)
		}
	}
	if id == "" && fits > 1 { // Trying them all would be work that strangers can cause.
		return nil, nil
	}
	if len(found) > 0 || !k.tried.IsZero() && time.Since(k.tried) < minFetch {
		return found, nil
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return nil, k.attempt
}

func (k *keySet) loaded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys != nil
}

func (k *keySet) ready() error {
	if k.loaded() {
		return nil
	}
	return errors.New("the keys of tokens are not here: see --auth-jwks")
}

func (k *keySet) problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failure == nil || k.keys == nil {
		return nil
	}
	return []string{fmt.Sprintf("the keys of tokens are %s old and cannot be read", time.Since(k.good).Round(time.Second))}
}

// newClient returns a client that follows no redirect: an answer is an answer.
func newClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func fetchKeys(ctx context.Context, client *http.Client, from string) ([]key, error) {
	defer client.CloseIdleConnections() // The next one is minutes away.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, errors.New("fetching --auth-jwks: the URL is none")
	}
	r.Header.Set("Accept", "application/json")
	res, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetching --auth-jwks: %w", withoutURL(err))
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching --auth-jwks: %s", res.Status)
	}
	return readKeys(res.Body)
}

func readKeyFile(name string) ([]key, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks: %w", err)
	}
	defer func() { _ = f.Close() }()
	return readKeys(f)
}

func readKeys(r io.Reader) ([]key, error) {
	text, err := readDocument(r)
	if err != nil {
		return nil, fmt.Errorf("reading --auth-jwks: %w", err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("reading --auth-jwks: %w", err)
	}
	return keys, nil
}

// readDocument reads all, if that is not too much.
func readDocument(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(text) > maxDocument {
		err = fmt.Errorf("it is longer than %d bytes", maxDocument)
	}
	return text, err
}

// withoutURL takes the URL out of an error of the HTTP client, because it may have a secret in it.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
