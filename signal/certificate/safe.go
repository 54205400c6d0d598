package certificate

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// Vault keeps values for all nodes.
type Vault interface {
	// Get fails with fs.ErrNotExist where there is nothing.
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
	// Delete succeeds where there is nothing, too.
	Delete(ctx context.Context, keys ...string) error
	Keys(ctx context.Context) ([]string, error)
	// Lock waits for a lock, which a node that ends without a word keeps for a moment only.
	Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error)
}

// secrets are those that the values in a vault are encrypted with, newest first. There are none before the nodes have
// agreed on them.
type secrets struct {
	mu     sync.Mutex
	values []string
}

// SetSecrets tells what the nodes' certificates and keys are encrypted with where they share them, newest first.
func (s *Set) SetSecrets(values []string) {
	if s.managed == nil {
		return
	}
	s.managed.secrets.mu.Lock()
	defer s.managed.secrets.mu.Unlock()
	s.managed.secrets.values = values
}

var errNotAgreed = errors.New("the nodes have not agreed on a session secret yet")

// ciphers returns one for each secret.
func (s *secrets) ciphers() ([]cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.values) == 0 {
		return nil, errNotAgreed
	}
	var out []cipher.AEAD
	for _, secret := range s.values {
		key, err := hkdf.Key(sha256.New, []byte(secret), nil, "signal certificates", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		out = append(out, aead)
	}
	return out, nil
}

// safe is certmagic's storage in a vault. Values are encrypted, with their key and the time of their last change as
// additional data. What this node has stored or read it puts back when the vault has lost it, as a Redis without
// persistence may.
type safe struct {
	vault   Vault
	secrets *secrets

	mu      sync.Mutex
	known   map[string][]byte // what was stored or read, in the clear
	unlocks map[string]func(context.Context) error
}

func newSafe(v Vault, s *secrets) *safe {
	return &safe{vault: v, secrets: s, known: map[string][]byte{}, unlocks: map[string]func(context.Context) error{}}
}

// stampBytes is the length of the time in front of a value.
const stampBytes = 8

// Store implements certmagic.Storage.
func (s *safe) Store(ctx context.Context, key string, value []byte) error {
	ciphers, err := s.secrets.ciphers()
	if err != nil {
		return err
	}
	stamp := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	sealed := ciphers[0].Seal(slices.Clone(stamp), nil, value, append(stamp, key...))
	if err := s.vault.Put(ctx, key, sealed); err != nil {
		return err
	}
	s.remember(key, value)
	return nil
}

func (s *safe) remember(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[key] = slices.Clone(value)
}

// Load implements certmagic.Storage.
func (s *safe) Load(ctx context.Context, key string) ([]byte, error) {
	value, _, err := s.open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return s.restore(ctx, key, err)
	}
	if err == nil {
		s.remember(key, value)
	}
	return value, err
}

// restore puts back what the vault has lost and this node knows.
func (s *safe) restore(ctx context.Context, key string, lost error) ([]byte, error) {
	s.mu.Lock()
	value, ok := s.known[key]
	s.mu.Unlock()
	if !ok {
		return nil, lost
	}
	return value, s.Store(ctx, key, value)
}

// open reads and decrypts a value. One of a secret that is not valid any more is as good as none.
func (s *safe) open(ctx context.Context, key string) (value []byte, changed time.Time, err error) {
	ciphers, err := s.secrets.ciphers()
	if err != nil {
		return nil, changed, err
	}
	sealed, err := s.vault.Get(ctx, key)
	if err != nil {
		return nil, changed, err
	}
	if len(sealed) < stampBytes {
		return nil, changed, fmt.Errorf("%s is no value of ours: %w", key, fs.ErrNotExist)
	}
	stamp := sealed[:stampBytes:stampBytes]
	for _, c := range ciphers {
		if value, err := c.Open(nil, nil, sealed[stampBytes:], append(stamp, key...)); err == nil {
			return value, time.Unix(0, int64(binary.BigEndian.Uint64(stamp))), nil
		}
	}
	return nil, changed, fmt.Errorf("%s is encrypted with another secret: %w", key, fs.ErrNotExist)
}

// Delete implements certmagic.Storage.
func (s *safe) Delete(ctx context.Context, key string) error {
	below, err := s.List(ctx, key, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := append(below, key)
	s.mu.Lock()
	for _, k := range all {
		delete(s.known, k)
	}
	s.mu.Unlock()
	return s.vault.Delete(ctx, all...)
}

// Exists implements certmagic.Storage.
func (s *safe) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (s *safe) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	keys, err := s.vault.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range keys {
		rest, below := strings.CutPrefix(key, prefix+"/")
		if !below {
			continue
		}
		if name, _, deeper := strings.Cut(rest, "/"); deeper && !recursive {
			key = prefix + "/" + name
		}
		if !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	if len(out) == 0 {
		return nil, fs.ErrNotExist
	}
	return out, nil
}

// Stat implements certmagic.Storage.
func (s *safe) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, changed, err := s.open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		if value, err = s.restore(ctx, key, err); err == nil {
			changed = time.Now()
		}
	}
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: changed, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if _, listed := s.List(ctx, key, false); listed == nil {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, err
}

// Lock implements certmagic.Storage.
func (s *safe) Lock(ctx context.Context, name string) error {
	unlock, err := s.vault.Lock(ctx, name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlocks[name] = unlock
	return nil
}

// Unlock implements certmagic.Storage.
func (s *safe) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	unlock := s.unlocks[name]
	delete(s.unlocks, name)
	s.mu.Unlock()
	if unlock == nil {
		return fmt.Errorf("%s is not locked", name)
	}
	return unlock(ctx)
}
