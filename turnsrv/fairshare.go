package turnsrv

import (
	"time"

	"cline-meet/signal/turnsrv/internal/transport"
)

const (
	// shareDelay is how long the queue of a listener may last before what makes it
	// so long is dropped.
	shareDelay = 500 * time.Microsecond

	// shareWindow is how many packets show who sends most of them.
	shareWindow = 512

	// shareMemory is how long another client counts as there after a packet.
	shareMemory = time.Second
)

// fairShare watches the queue of a listener, in which all its clients wait in one line.
// When it does not become empty, and one client has filled more than half of it
// while there are others, data of that client is dropped as soon as it is read,
// which takes a fraction of relaying it, until the queue has been empty: that
// client gets what the others leave. A client alone, or many that are alike, get
// what the kernel lets through. Only what was read since the queue was empty counts,
// two windows of it: a loop that the machine has kept waiting finds the bursts of
// honest clients in its queue, and time alone would take them for a flood. The loop
// of the listener owns it; the zero value is ready.
type fairShare struct {
	since time.Time // since is when the queue was empty last, zero while it is.

	// What was seen in the window: majority holds more than half of the packets if
	// anybody does (Boyer and Moore's vote), suspect is that of the window before.
	majority, suspect transport.FiveTuple
	votes             int
	packets, hits     int // hits are the suspect's.

	proven bool      // proven says that the suspect did hold more than half.
	other  time.Time // other is when somebody else's packet came last.
	unfair bool
}

// read is told of every read from the queue, before its packets are noted: full
// says that there may be more.
func (s *fairShare) read(full bool, now time.Time) {
	if !full {
		if !s.since.IsZero() {
			*s = fairShare{}
		}
		return
	}
	if s.since.IsZero() {
		s.since = now
	}
	if s.packets >= shareWindow {
		s.judge()
	}
	s.unfair = s.proven && now.Sub(s.since) > shareDelay && now.Sub(s.other) < shareMemory
}

// judge ends a window.
func (s *fairShare) judge() {
	if s.proven = 2*s.hits > s.packets; !s.proven {
		s.suspect, s.other = s.majority, time.Time{}
	}
	s.votes, s.packets, s.hits = 0, 0, 0
}

// drops notes packets that came from a client at once, and says whether their data
// is to be dropped. It costs nothing while the queue is short.
func (s *fairShare) drops(from transport.FiveTuple, packets int, now time.Time) bool {
	if s.since.IsZero() {
		return false
	}
	s.packets += packets
	switch {
	case from == s.majority:
		s.votes += packets
	case s.votes >= packets:
		s.votes -= packets
	default:
		s.majority, s.votes = from, packets-s.votes
	}
	if from != s.suspect {
		s.other = now
		return false
	}
	s.hits += packets
	return s.unfair
}
