package consent

import "time"

// entry is a check that may be answered.
type entry struct {
	peer  *peer
	id    transaction
	ufrag string // ufrag is whom a check of the client is for, with Room alone.
}

// forget makes an entry that of nobody.
func (e *entry) forget() { e.peer = nil }

// memory holds the latest checks; a new one takes the place of the oldest.
type memory struct {
	entries []entry
	next    int
}

// add remembers a check, once if it is sent again.
func (m *memory) add(limit int, e entry) {
	switch {
	case m.find(e.peer, e.id) != nil:
	case len(m.entries) < limit:
		m.entries = append(m.entries, e)
	default:
		m.entries[m.next] = e
		m.next = (m.next + 1) % limit
	}
}

func (m *memory) find(p *peer, id transaction) *entry {
	for i := range m.entries {
		if e := &m.entries[i]; e.peer == p && e.id == id {
			return e
		}
	}
	return nil
}

// meter bounds a rate: it is the moment when its bucket will be full again.
type meter moment

// take reports whether one more may pass, of so many a second and at once.
func (m *meter) take(now moment, rate, burst int64) bool {
	cost := int64(time.Second) / rate
	full := max(int64(*m), int64(now)) + cost
	if full-int64(now) > burst*cost {
		return false
	}
	*m = meter(full)
	return true
}
