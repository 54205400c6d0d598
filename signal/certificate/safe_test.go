package certificate

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
)

// box is a vault in memory, whose locks nobody else wants.
type box map[string][]byte

func (b box) Get(_ context.Context, key string) ([]byte, error) {
	if value, ok := b[key]; ok {
		return value, nil
	}
	return nil, fs.ErrNotExist
}

func (b box) Put(_ context.Context, key string, value []byte) error {
	b[key] = value
	return nil
}

func (b box) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		delete(b, key)
	}
	return nil
}

func (b box) Keys(context.Context) ([]string, error) { return slices.Collect(maps.Keys(b)), nil }

func (b box) Lock(context.Context, string) (func(context.Context) error, error) {
	return func(context.Context) error { return nil }, nil
}

// node returns the safe of a node that knows some secrets.
func (b box) node(values ...string) *safe { return newSafe(b, &secrets{values: values}) }

func TestSafeIsEncrypted(t *testing.T) {
	b, ctx := box{}, t.Context()
	const key, value = "certificates/ca/example.org/example.org.key", "-----BEGIN PRIVATE KEY-----"
	if err := b.node("one").Store(ctx, key, []byte(value)); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b[key], []byte("PRIVATE")) || len(b[key]) < len(value)+stampBytes+12+16 {
		t.Errorf("%q is kept", b[key])
	}
	for _, known := range [][]string{{"one"}, {"two", "one"}} {
		if got, err := b.node(known...).Load(ctx, key); err != nil || string(got) != value {
			t.Errorf("with %v: %q, %v", known, got, err)
		}
	}
	if got, err := b.node("two").Load(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with another secret: %q, %v", got, err)
	}
	if _, err := b.node().Load(ctx, key); !errors.Is(err, errNotAgreed) {
		t.Errorf("without a secret: %v", err)
	}
	if err := b.node().Store(ctx, key, nil); !errors.Is(err, errNotAgreed) {
		t.Errorf("without a secret: %v", err)
	}
	b["elsewhere"] = b[key] // Who writes to Redis must not exchange values.
	stamped := slices.Clone(b[key])
	stamped[0] ^= 1
	b["stamped"], b["short"] = stamped, []byte("1234567")
	for _, other := range []string{"elsewhere", "stamped", "short", "nothing"} {
		if got, err := b.node("one").Load(ctx, other); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", other, got, err)
		}
	}
}

// TestSafeRestores loses all values, as a Redis without persistence does.
func TestSafeRestores(t *testing.T) {
	b, ctx := box{}, t.Context()
	writer, reader, stranger := b.node("one"), b.node("one"), b.node("one")
	if err := writer.Store(ctx, "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Load(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*safe{"who stored": writer, "who loaded": reader} {
		clear(b)
		if s.Exists(ctx, "a/b") != true || stranger.Exists(ctx, "a/b") != true {
			t.Errorf("%s has not put it back", name)
		}
	}
	if err := reader.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if reader.Exists(ctx, "a/b") || len(b) != 0 {
		t.Errorf("what was deleted is back: %v", b)
	}
}

func TestSafeHasDirectories(t *testing.T) {
	b, ctx := box{}, t.Context()
	s := b.node("one")
	for _, key := range []string{"a/b/c", "a/b/d", "a/e", "ab/f"} {
		if err := s.Store(ctx, key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		prefix    string
		recursive bool
		want      string
	}{{"a", false, "a/b a/e"}, {"a", true, "a/b/c a/b/d a/e"}, {"a/b", false, "a/b/c a/b/d"}, {"ab", true, "ab/f"}, {"b", true, ""}, {"a/e", true, ""}} {
		keys, err := s.List(ctx, test.prefix, test.recursive)
		if got := strings.Join(slices.Sorted(slices.Values(keys)), " "); got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s below %s: %s, %v", test.want, test.prefix, got, err)
		}
	}
	if info, err := s.Stat(ctx, "a/e"); err != nil || !info.IsTerminal || info.Size != 3 || info.Modified.IsZero() {
		t.Errorf("a file: %+v, %v", info, err)
	}
	if info, err := s.Stat(ctx, "a/b"); err != nil || info.IsTerminal {
		t.Errorf("a directory: %+v, %v", info, err)
	}
	if _, err := s.Stat(ctx, "z"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if err := s.Delete(ctx, "a/b"); err != nil || len(b) != 2 {
		t.Errorf("%v after a directory was deleted: %v", b, err)
	}
}

func TestSafeLocks(t *testing.T) {
	s, ctx := box{}.node("one"), t.Context()
	if err := s.Lock(ctx, "l"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unlock(ctx, "l"); err != nil {
		t.Error(err)
	}
	if err := s.Unlock(ctx, "l"); err == nil {
		t.Error("unlocked twice")
	}
}
