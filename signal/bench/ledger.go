package bench

import (
	"slices"
	"sync"
)

// ledger knows what the clients of a churn have sent and received, and where they are. All of them use
// it.
type ledger struct {
	mu       sync.Mutex
	messages map[string]*entry
	where    map[string]string // where is the room of every user that is there, empty for none.
	last     map[[2]string]int // last is the number of the newest message from one user to another.
	owing    map[string]int    // owing counts the messages to users who are there that were acked and have not arrived.
	faults   result
	received uint64
	resumes  uint64
}

// entry is one message.
type entry struct {
	from, to string
	number   int // number grows with every message of from.
	acked    bool
	refused  bool
	received bool
}

func newLedger() *ledger {
	return &ledger{messages: map[string]*entry{}, where: map[string]string{}, last: map[[2]string]int{}, owing: map[string]int{}}
}

func (l *ledger) sent(id string, e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages[id] = &e
}

// answered notes an ack or a refusal. Those of other things than messages are not looked at.
func (l *ledger) answered(id string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.messages[id]
	if e == nil {
		return
	}
	if e.acked || e.refused || !ok && e.received {
		l.faults.Acks++
	}
	e.acked, e.refused = e.acked || ok, e.refused || !ok
	if _, there := l.where[e.to]; ok && there && !e.received {
		l.owing[e.to]++
	}
}

// got notes that a message has arrived, stamped with a sender.
func (l *ledger) got(id, from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.messages[id]
	switch {
	case e == nil || e.to != to:
		l.faults.Corrupt++
		return
	case e.from != from:
		l.faults.Forged++
		return
	case e.received:
		l.faults.Doubled++
		return
	}
	e.received = true
	l.received++
	if e.acked {
		l.owing[to]--
	}
	if e.refused {
		l.faults.Acks++
	}
	pair := [2]string{from, to}
	if e.number <= l.last[pair] {
		l.faults.Reordered++
	}
	l.last[pair] = max(l.last[pair], e.number)
}

// moved notes in which room a user is.
func (l *ledger) moved(user, room string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.where[user] = room
}

// gone notes that a user ends. What was on its way to it may be lost.
func (l *ledger) gone(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.where, user)
	delete(l.owing, user)
}

func (l *ledger) resumed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resumes++
}

// failed notes something that must not happen.
func (l *ledger) failed(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults.Errors++
	if l.faults.Trouble == "" {
		l.faults.Trouble = what
	}
}

// blind notes a client that sees others than there are.
func (l *ledger) blind(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if yes {
		l.faults.Views++
	}
}

// owed returns how many messages a user still has to get.
func (l *ledger) owed(user string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owing[user]
}

// sees reports whether a user who sees others in its room sees exactly those that are there.
func (l *ledger) sees(user, room string, seen []string) bool {
	if room == "" {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var there []string
	for other, in := range l.where {
		if in == room {
			there = append(there, other)
		}
	}
	slices.Sort(there)
	seen = slices.Sorted(slices.Values(seen))
	return slices.Contains(there, user) && slices.Equal(there, seen)
}

// result returns what was counted.
func (l *ledger) result() result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.faults
	r.Delivered, r.Resumes = l.received, l.resumes
	for _, n := range l.owing {
		r.Lost += uint64(n)
	}
	return r
}
