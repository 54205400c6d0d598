package signal

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// An id means once: who sends a message again under the same id, because no answer came or not the right one,
// gets it delivered to those that missed it and to nobody else. Two things see to that. The sender's participant
// remembers what became of each id. Where it cannot know, because it moved or its node died before the other nodes
// answered, it sends again, and the receiver's participant remembers what it was sent.

// rememberBeyond is how long beyond the grace an id is remembered.
const rememberBeyond = 10 * time.Second

// maxRemembered bounds how many keys a generation of a memory holds: with more the older generation is forgotten
// before its time.
const maxRemembered = 2048

// outcome is what became of a message with an id that has not reached everybody.
type outcome struct {
	flying bool   // the answer will come
	missed []stay // who is not known to have got it
}

// keyOf tells the messages with an id apart, of one sender and of several: 0 for no id. An id that is used for
// another type or another target is another message, as clients use it that count anew for each. The data does
// not matter, for a retry may say the time at which it was made.
func keyOf(from string, env envelope) uint64 {
	if len(env.ID) == 0 {
		return 0
	}
	var space [256]byte
	text := append(append(space[:0], from...), 0)
	text = append(append(text, messageTypeNames[env.Type]...), 0)
	text = append(text, env.ID...)
	text = append(append(text, 0), env.TargetID...)
	sum := sha256.Sum256(text)
	return max(1, binary.LittleEndian.Uint64(sum[:8]))
}

// memory holds something by key for at least a time, and at most twice that. It is two generations: what is
// new goes into the young one, which becomes the old one when it has lasted, and what was old is
// forgotten. An empty memory holds nothing.
type memory[K comparable, V any] struct {
	young, old map[K]V
	begun      time.Duration // the uptime at which the young one began
}

func (m *memory[K, V]) get(key K) (V, bool) {
	v, ok := m.young[key]
	if !ok {
		v, ok = m.old[key]
	}
	return v, ok
}

func (m *memory[K, V]) put(key K, v V) {
	if m.young == nil {
		m.young, m.begun = map[K]V{}, uptime()
	}
	if len(m.young) >= maxRemembered {
		m.turn()
	}
	m.young[key] = v
}

func (m *memory[K, V]) remove(key K) {
	delete(m.young, key)
	delete(m.old, key)
}

// age forgets what is older than twice a time.
func (m *memory[K, V]) age(life time.Duration) {
	if m.young != nil && uptime()-m.begun >= life {
		m.turn()
	}
}

func (m *memory[K, V]) turn() {
	spare := m.old
	m.old, m.young, m.begun = m.young, nil, uptime()
	if len(m.old) == 0 {
		m.old = nil
		return
	}
	if spare == nil {
		spare = map[K]V{}
	}
	clear(spare)
	m.young = spare
}

// memorySpan is how long a server's participants remember ids.
func (s *Server) memorySpan() time.Duration { return s.cfg.ResumeGrace + rememberBeyond }

// recall returns what became of a message that a participant sent before under the same key. It reports
// false when nothing is known.
func (p *participant) recall(key uint64) (*outcome, bool) {
	if key == 0 {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.get(key)
}

// done notes that a message has reached all whom it is for.
func (p *participant) done(key uint64) {
	if key == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said.put(key, nil)
	p.noteLocked()
}

// sendOnce queues a frame unless one of the same key was queued before.
func (p *participant) sendOnce(frame []byte, key uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key != 0 {
		if _, again := p.heard.get(key); again {
			p.srv.metrics.duplicates.Inc()
			return
		}
		p.heard.put(key, struct{}{})
	}
	p.sendLocked(frame)
}

// hasHeard reports whether a message of that key, 0 for none, was queued.
func (p *participant) hasHeard(key uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, heard := p.heard.get(key)
	return heard
}

// remembered is a memory of ids in a snapshot: the keys of what is done with, and what is not.
type remembered struct {
	Done   []byte   `json:"done,omitempty"` // 8 bytes each
	Missed []missed `json:"missed,omitempty"`
}

type missed struct {
	Key   uint64 `json:"key"`
	Stays []stay `json:"stays"`
}

// packHeardLocked and packSaidLocked return what a participant remembers of others' messages and of its own. What is still
// under way is left out: its sender sends it again, and who has it drops it.
func (p *participant) packHeardLocked() (r remembered) {
	for _, generation := range []map[uint64]struct{}{p.heard.old, p.heard.young} {
		for key := range generation {
			r.Done = binary.LittleEndian.AppendUint64(r.Done, key)
		}
	}
	return r
}

func (p *participant) packSaidLocked() (r remembered) {
	for _, generation := range []map[uint64]*outcome{p.said.old, p.said.young} {
		for key, o := range generation {
			switch {
			case o == nil:
				r.Done = binary.LittleEndian.AppendUint64(r.Done, key)
			case !o.flying:
				r.Missed = append(r.Missed, missed{key, o.missed})
			}
		}
	}
	return r
}

// unpackIDs has a participant remember what it remembered at another node.
func (p *participant) unpackIDs(heard, said remembered) {
	for b := heard.Done; len(b) >= 8; b = b[8:] {
		p.heard.put(binary.LittleEndian.Uint64(b), struct{}{})
	}
	for b := said.Done; len(b) >= 8; b = b[8:] {
		p.said.put(binary.LittleEndian.Uint64(b), nil)
	}
	for _, m := range said.Missed {
		p.said.put(m.Key, &outcome{missed: m.Stays})
	}
}
