package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// hook asks the owner's backend who somebody is and what it may do.
type hook struct {
	url     string
	client  *http.Client
	timeout time.Duration
	places  *places
	log     *slog.Logger

	warned atomic.Bool  // the last notice was that it does not answer
	told   atomic.Int64 // when that was, in nanoseconds since 1970
}

// noticeInterval is the least time between two warnings that the backend does not answer. Whoever asks decides what is asked, and may know
// what the backend does not answer.
const noticeInterval = time.Minute

func newHook(cfg Config) *hook {
	h := &hook{url: cfg.URL, client: newClient(), timeout: cfg.Timeout, places: newPlaces(cfg.Requests), log: cfg.Logger}
	h.client.Transport.(*http.Transport).MaxIdleConnsPerHost = min(cfg.Requests, 64)
	return h
}

func (h *hook) close() { h.client.CloseIdleConnections() }

// question is what the backend is asked. The secrets of the client go in headers.
type question struct {
	Request `json:"-"`
	Kind    string  `json:"kind"`
	Room    string  `json:"room,omitempty"`
	User    string  `json:"user_id,omitempty"`
	Subject string  `json:"sub,omitempty"`
	known   *Claims // what stands if the answer says nothing else
}

// MarshalJSON adds where the client is to what it wants.
func (q question) MarshalJSON() ([]byte, error) {
	type plain question
	return json.Marshal(struct {
		plain
		Origin  string `json:"origin"`
		Address string `json:"address"`
	}{plain(q), q.Request.Origin, q.Request.Address})
}

// ask waits for the backend's answer. The number of requests that are under way and the time are bounded; whatever
// is neither a yes nor a no is Unavailable.
func (h *hook) ask(ctx context.Context, q question) (*Claims, error) {
	limited, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	c, err := h.answer(limited, q)
	var refusal *Error
	switch {
	case err == nil || errors.As(err, &refusal):
		if h.warned.Swap(false) {
			h.log.Info("the backend of --auth-url answers again")
		}
		return c, err
	case ctx.Err() == nil: // Else it is the client who has not waited.
		h.warn(err)
	}
	reason := ReasonUnavailable
	if errors.Is(err, errCrowded) && ctx.Err() == nil {
		reason = ReasonCrowded
	}
	return nil, &Error{reason, "who you are cannot be asked now: try again"}
}

var errCrowded = errors.New("too many requests wait for it")

// answer returns what the backend says. Its error is an *Error if that is no, and any other if it says nothing.
func (h *hook) answer(ctx context.Context, q question) (*Claims, error) {
	leave, err := h.places.take(ctx, q.prefix())
	if err != nil {
		return nil, errCrowded
	}
	defer leave()
	status, body, err := h.post(ctx, q)
	if err != nil {
		return nil, err
	}
	return read(status, body, q.known)
}

// warn says why the backend does not answer: the first time, and not for every client that can bring that about.
func (h *hook) warn(why error) {
	last, now := h.told.Load(), time.Now()
	if h.warned.Load() || last != 0 && now.Sub(time.Unix(0, last)) < noticeInterval || !h.told.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	h.warned.Store(true)
	h.log.Warn("the backend of --auth-url does not answer: who needs that answer does not come in", "error", why)
}

func (h *hook) post(ctx context.Context, q question) (status int, body []byte, err error) {
	text, err := json.Marshal(q)
	if err != nil {
		return 0, nil, fmt.Errorf("encoding the question: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, errors.New("the URL is none")
	}
	q.head(r.Header)
	res, err := h.client.Do(r)
	if err != nil {
		return 0, nil, withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err = readDocument(res.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return res.StatusCode, body, nil
}

// head sets the headers of a question: those that the client has sent, and its token, however that came, as it would
// come from any other client of the backend.
func (q question) head(h http.Header) {
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json")
	if q.cookie != "" {
		h.Set("Cookie", q.cookie)
	}
	switch {
	case q.token != "":
		h.Set("Authorization", "Bearer "+q.token)
	case q.authorization != "":
		h.Set("Authorization", q.authorization)
	}
}

var errForbidden = &Error{ReasonForbidden, "the backend does not allow this"}

// read reads an answer. Its error is an *Error if the answer is no, and any other if it is none. A yes without a word
// leaves what was known.
func read(status int, body []byte, known *Claims) (*Claims, error) {
	switch {
	case status == http.StatusUnauthorized:
		return nil, &Error{ReasonDenied, "the backend does not know you"}
	case status == http.StatusForbidden:
		return nil, errForbidden
	case status < 200 || status > 299:
		return nil, fmt.Errorf("its answer is %d", status)
	case len(bytes.TrimSpace(body)) == 0 && known != nil:
		return known, nil
	}
	var doc document
	var verdict struct {
		Allow *bool `json:"allow"`
	}
	if doc.UnmarshalJSON(body) != nil || json.Unmarshal(body, &verdict) != nil {
		return nil, errors.New("its answer has no readable claims")
	}
	if verdict.Allow != nil && !*verdict.Allow {
		return nil, errForbidden
	}
	if doc.Subject == "" && known != nil {
		doc.Subject = known.Subject
	}
	c, err := doc.claims()
	if err != nil {
		return nil, errors.New("in its answer " + err.Error())
	}
	if c.Expires.IsZero() && known != nil {
		c.Expires = known.Expires
	}
	if err := c.current(time.Now()); err != nil {
		return nil, err
	}
	return c, nil
}
