package state

import (
	"crypto/rand"
	"slices"
	"sync"
)

// The names of the secrets that the nodes agree on: of their flags, and in Redis.
const (
	SessionSecret = "session-secret"
	TURNSecret    = "turn-secret"
)

// Secrets are a node's share of those that the cluster agrees on: what it proposes, what is valid, and
// the parts of the node that use them. Any goroutine may call Set and Use.
type Secrets struct {
	// Fixed before the node subscribes.
	given     map[string][]string // those that were configured
	proposed  map[string]string
	generated []string // the names of those that are this node's alone

	mu     sync.Mutex
	values map[string][]string
	users  map[string]func([]string)
}

// NewSecrets returns secrets of which nothing is known.
func NewSecrets() *Secrets {
	return &Secrets{given: map[string][]string{}, proposed: map[string]string{}, values: map[string][]string{}, users: map[string]func([]string){}}
}

// Provide takes the configured values of a secret, and makes one where there are none. With Redis that is a
// proposal: the whole cluster uses the first node's.
func (s *Secrets) Provide(name string, values []string, redis bool) []string {
	switch {
	case len(values) > 0:
		s.given[name] = values
		return values
	case redis:
		s.proposed[name] = rand.Text()
		return []string{s.proposed[name]}
	}
	s.generated = append(s.generated, name)
	return []string{rand.Text()}
}

// Generated returns the names of the secrets that end with this process.
func (s *Secrets) Generated() []string {
	if s == nil {
		return nil
	}
	return s.generated
}

// IsGiven says whether a secret was configured.
func (s *Secrets) IsGiven(name string) bool { return len(s.given[name]) > 0 }

// Tell hands a node's proposals and configured secrets to the Redis that it shares.
func (s *Secrets) Tell(cfg *RedisConfig) {
	cfg.Secrets, cfg.OnSecret, cfg.Configured = s.proposed, s.Set, s.given
}

// Set takes over what the cluster agreed on, the value to mint with first, and tells the user of the
// secret. What this node proposed stays valid here: it may have been used before Redis was there.
func (s *Secrets) Set(name string, values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own := s.proposed[name]; own != "" && !slices.Contains(values, own) {
		values = append(slices.Clone(values), own)
	}
	s.values[name] = values
	if use := s.users[name]; use != nil {
		use(values)
	}
}

// Use has a part told of a secret's values, now if there are any and whenever they change. The part must
// return soon and must not call back.
func (s *Secrets) Use(name string, f func(values []string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = f
	if values := s.values[name]; len(values) > 0 {
		f(values)
	}
}
