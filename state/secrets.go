package state

import (
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
	proposed map[string]string // fixed before the node subscribes

	mu     sync.Mutex
	values map[string][]string
	users  map[string]func([]string)
}

// NewSecrets returns secrets of which nothing is known.
func NewSecrets() *Secrets {
	return &Secrets{proposed: map[string]string{}, values: map[string][]string{}, users: map[string]func([]string){}}
}

// Propose offers the cluster a value, which it takes when it has none of that name.
func (s *Secrets) Propose(name, value string) { s.proposed[name] = value }

// Proposals returns what was proposed, by name.
func (s *Secrets) Proposals() map[string]string { return s.proposed }

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
