// Package passwords keeps the ICE passwords that members of rooms tell each other in their SDP, in memory alone. A TURN server that
// knows them can tell whether a peer is a member of its client's room: nobody else answers a connectivity check with the password of
// a member.
//
// A password is kept for the session of whom it was told to, since all connections of a browser are one owner of relays. It is kept
// until nobody asks for it and its owner does not need it: Sweep decides.
package passwords

import (
	"slices"
	"sync"
	"time"
)

// Told is a password that one member of a room has told another.
type Told struct {
	To   string `json:"to"`
	From string `json:"from"`
	Room string `json:"room"`
	Password
}

const (
	// maxOfSender is how many passwords of one member another one has: those of several peer connections, before an ICE restart and
	// after it. With more the oldest is forgotten.
	maxOfSender = 32
	// maxOfSession is how many a session has of all members, the same.
	maxOfSession = 1024
	// maxRelays is how many nodes are remembered that asked for those of a session.
	maxRelays = 8
	// idle is after how much time without a question Sweep looks whether a password is needed.
	idle = 2 * time.Minute
	// overhead is about what a password takes besides its text.
	overhead = 160
)

// sessionLength is the length of that part of a user id which all connections of a session share.
const sessionLength = len("user-") + 8

// Session returns the part of a user id that all connections of a session share.
func Session(user string) string { return user[:min(len(user), sessionLength)] }

// Store holds passwords within a number of bytes. Any goroutine may use it.
type Store struct {
	limit int

	mu       sync.Mutex
	bytes    int
	sessions map[string]*session
}

// session is what the connections of one session were told, oldest first, and which nodes want to know it.
type session struct {
	told    []kept
	senders map[string]int // senders has how many are of each.
	bytes   int
	relays  []string
}

type kept struct {
	Told
	used time.Time
}

func (k kept) size() int {
	return overhead + len(k.To) + len(k.From) + len(k.Room) + len(k.Ufrag) + len(k.Password.Password)
}

// New returns a store that holds at most so many bytes. When it is full, a session that has much loses its oldest password.
func New(limit int) *Store { return &Store{limit: limit, sessions: map[string]*session{}} }

// Tell keeps a password, unless it cannot be one.
func (s *Store) Tell(t Told) {
	if !t.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := Session(t.To)
	of := s.sessions[name]
	if of == nil {
		of = &session{senders: map[string]int{}}
		s.sessions[name] = of
	}
	if i := slices.IndexFunc(of.told, func(k kept) bool { return k.Told == t }); i >= 0 {
		of.told[i].used = time.Now()
		return
	}
	if old := of.surplus(t.From); old >= 0 {
		s.dropLocked(name, old)
	}
	k := kept{t, time.Now()}
	of.told, of.bytes, s.bytes = append(of.told, k), of.bytes+k.size(), s.bytes+k.size()
	of.senders[t.From]++
	for s.bytes > s.limit {
		s.evictLocked(name)
	}
}

// surplus returns which password makes room for one more of a sender, or -1. With too many of all, the sender with most loses its oldest, so
// that no number of strangers in a room displaces what few members have told.
func (of *session) surplus(from string) int {
	switch {
	case of.senders[from] >= maxOfSender:
		return of.oldest(from)
	case len(of.told) >= maxOfSession:
		return of.loudest(from)
	}
	return -1
}

// loudest returns the oldest password of the senders with most, of that one alone if it is among them.
func (of *session) loudest(from string) int {
	most := 0
	for _, count := range of.senders {
		most = max(most, count)
	}
	if of.senders[from] == most {
		return of.oldest(from)
	}
	return slices.IndexFunc(of.told, func(k kept) bool { return of.senders[k.From] == most })
}

func (of *session) oldest(from string) int {
	return slices.IndexFunc(of.told, func(k kept) bool { return k.From == from })
}

func (s *Store) dropLocked(name string, i int) {
	of := s.sessions[name]
	size, from := of.told[i].size(), of.told[i].From
	of.bytes, s.bytes = of.bytes-size, s.bytes-size
	if of.senders[from]--; of.senders[from] == 0 {
		delete(of.senders, from)
	}
	of.told = slices.Delete(of.told, i, i+1)
	if len(of.told) == 0 {
		delete(s.sessions, name)
	}
}

// sample is how many sessions evictLocked compares.
const sample = 8

// evictLocked makes room for what a session was told: it loses its own oldest password if it has more than others have on average, else
// the one with most of a few that the order of the map picks loses it. So who fills the store harms few others.
func (s *Store) evictLocked(by string) {
	most, seen, average := "", 0, s.bytes/len(s.sessions)
	for name, of := range s.sessions {
		if most == "" || len(of.told) > len(s.sessions[most].told) {
			most = name
		}
		if seen++; seen == sample {
			break
		}
	}
	if of := s.sessions[by]; of != nil && of.bytes > average {
		most = by
	}
	s.dropLocked(most, 0)
}

// Of returns the passwords that go with a user name fragment, of all that the session of a user was told.
func (s *Store) Of(user, ufrag string) (found [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.sessions[Session(user)]
	if of == nil {
		return nil
	}
	for i := range of.told {
		if k := &of.told[i]; k.Ufrag == ufrag {
			k.used = time.Now()
			found = append(found, []byte(k.Password.Password))
		}
	}
	return found
}

// ToldTo returns all that the session of a user was told, oldest first.
func (s *Store) ToldTo(user string) (all []Told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of := s.sessions[Session(user)]; of != nil {
		for _, k := range of.told {
			all = append(all, k.Told)
		}
	}
	return all
}

// Share notes that a node wants to know what the session of a user is told, and returns what it was told until now.
func (s *Store) Share(user, node string) []Told {
	s.mu.Lock()
	if of := s.sessions[Session(user)]; of != nil && !slices.Contains(of.relays, node) {
		of.relays = append(of.relays[max(0, len(of.relays)-maxRelays+1):], node)
	}
	s.mu.Unlock()
	return s.ToldTo(user)
}

// Sharing returns the nodes that want to know what the session of a user is told.
func (s *Store) Sharing(user string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of := s.sessions[Session(user)]; of != nil {
		return slices.Clone(of.relays)
	}
	return nil
}

// Sweep forgets what nobody has told or asked for of late and what is not needed. It calls needed without a lock.
func (s *Store) Sweep(needed func(Told) bool) {
	for _, t := range s.idle() {
		if !needed(t) {
			s.forget(t)
		}
	}
}

func (s *Store) idle() (all []Told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.sessions {
		for _, k := range of.told {
			if k.isIdle() {
				all = append(all, k.Told)
			}
		}
	}
	return all
}

func (k kept) isIdle() bool { return time.Since(k.used) >= idle }

// forget drops a password, unless somebody has told or asked for it since.
func (s *Store) forget(t Told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := Session(t.To)
	if of := s.sessions[name]; of != nil {
		if i := slices.IndexFunc(of.told, func(k kept) bool { return k.Told == t && k.isIdle() }); i >= 0 {
			s.dropLocked(name, i)
		}
	}
}

// Len returns how many passwords there are.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, of := range s.sessions {
		count += len(of.told)
	}
	return count
}
