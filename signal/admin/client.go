package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// api is a caller of the API of one node.
type api struct {
	base   string
	token  string
	client *http.Client
}

// newAPI returns a caller of an address as --admin-addr has it, or of a URL.
func newAPI(addr, token string) *api {
	a := &api{base: addr, token: token, client: &http.Client{Timeout: 2 * patience}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		a.base = "http://localhost"
		a.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	} else if !strings.Contains(addr, "://") {
		a.base = "http://" + addr
	}
	a.base = strings.TrimSuffix(a.base, "/")
	return a
}

// do sends a request whose body is JSON or nil and returns the answer. Its error is what the node says.
func (a *api) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	var text io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		text = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, text)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	res, err := a.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking the node (--admin-addr): %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= http.StatusBadRequest {
		return nil, problemOf(res.Status, answer)
	}
	return answer, nil
}

func problemOf(status string, answer []byte) error {
	var p huma.ErrorModel
	if json.Unmarshal(answer, &p) != nil || p.Detail == "" {
		return fmt.Errorf("the node answers %s", status)
	}
	text := p.Detail
	for _, d := range p.Errors {
		text += "; " + d.Error()
	}
	return fmt.Errorf("%s", text)
}

// all returns every page of a list, and the nodes that did not answer for one of them.
func all[T any](ctx context.Context, a *api, path string, query url.Values) (l list[T], err error) {
	l.Items, l.MissingNodes = []T{}, []string{}
	if query == nil {
		query = url.Values{}
	}
	for {
		var part list[T]
		text, err := a.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil)
		if err == nil {
			err = json.Unmarshal(text, &part)
		}
		if err != nil {
			return l, err
		}
		l.Items, l.MissingNodes = append(l.Items, part.Items...), part.MissingNodes
		if part.Next == "" {
			return l, nil
		}
		query.Set("after", part.Next)
	}
}

// ago says how long something has lasted, for a table.
func ago(since time.Time) string { return time.Since(since).Round(time.Second).String() }

// size writes bytes with a unit of 1,000, for a table.
func size(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, u := float64(n), 0
	for ; v >= 1000 && u < len(units)-1; u++ {
		v /= 1000
	}
	if u == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[u]
}
