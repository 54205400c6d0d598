package transport

import (
	"net"
	"time"
)

// A client of a stream that is busy is written to, and read from, not more often than
// once in a gatherTime: packets that share a system call cost little more than
// one, and what they cost is mostly the calls and the wake-ups. What comes after a
// pause is never held back, as a call's packets are not.
const (
	gatherTime = 2 * time.Millisecond

	// busyReads is how many reads in a row have to follow each other that closely.
	busyReads = 8
)

// untilTick returns how long it is until busy clients are served next, which is the
// same moment for all, so that they share a wake-up.
func untilTick() time.Duration {
	return gatherTime - time.Duration(time.Now().UnixNano())%gatherTime
}

// gatherer is the socket of a stream. Before it reads a busy one that has nothing
// ready it rests, for more to come. One goroutine may read.
type gatherer struct {
	net.Conn

	before  func()    // before is called before every read; nil for nothing.
	resting bool      // resting says that it may rest; it is set before the first message.
	latest  time.Time // latest is when something was read last.
	near    int       // near is how many reads in a row came within two gatherTimes.
	full    bool      // full says that the last read could have brought more.
}

// NetConn returns the connection under g.
func (g *gatherer) NetConn() net.Conn { return g.Conn }

// Read implements net.Conn.
func (g *gatherer) Read(p []byte) (int, error) {
	if g.before != nil {
		g.before()
	}
	if g.resting && g.near >= busyReads && !g.full {
		time.Sleep(untilTick())
	}
	n, err := g.Conn.Read(p)
	now := time.Now()
	if g.near++; now.Sub(g.latest) >= 2*gatherTime {
		g.near = 0
	}
	g.latest, g.full = now, n == len(p)
	return n, err
}
