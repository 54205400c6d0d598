package transport

import (
	"net"
	"sync"
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

// Busy clients are served at the same moments, so that they share a wake-up: they are
// read, then the relays of those whose loop has nobody else, then they are written
// to, by when what they sent may have been answered.
const (
	relaysAfter = gatherTime / 2
	writeAfter  = gatherTime * 3 / 4
)

// untilTick returns how long it is until busy clients are read next, or that much later.
func untilTick(after time.Duration) time.Duration {
	return gatherTime - (time.Duration(time.Now().UnixNano())+gatherTime-after)%gatherTime
}

// UntilRelaysAreRead returns how long it is until relays are to be read whose clients are
// busy and all of streams.
func UntilRelaysAreRead() time.Duration { return untilTick(relaysAfter) }

// gatherBytes is how much a busy client is read at once.
const gatherBytes = 8 << 10

// hushBytes is how much may come before the kernel tells of it.
const hushBytes = 32 << 10

// gatherBuffers are those of clients of whom nothing is left over.
var gatherBuffers = sync.Pool{New: func() any { return new([gatherBytes]byte) }}

// gatherer is the socket of a stream. Before it reads a busy one that has nothing
// ready it rests, for more to come, and reads all that is there, which TLS does
// not ask for. Meanwhile the kernel is to say nothing of what comes: each packet would
// wake a thread of the runtime. One goroutine may read.
type gatherer struct {
	net.Conn

	before  func()             // before is called before the socket is read; nil for nothing.
	resting bool               // resting says that it may rest; it is set before the first message.
	latest  time.Time          // latest is when something was read last.
	near    int                // near is how many reads in a row came within two gatherTimes.
	full    bool               // full says that the last read could have brought more.
	buffer  *[gatherBytes]byte // buffer is nil unless something is left in it,
	left    []byte             // which is that.
	tcp     *net.TCPConn       // tcp is under Conn; nil until it is busy.
	hushed  bool               // hushed says that the kernel does not tell of less than hushBytes.
}

// NetConn returns the connection under g.
func (g *gatherer) NetConn() net.Conn { return g.Conn }

// Read implements net.Conn.
func (g *gatherer) Read(p []byte) (int, error) {
	if len(g.left) > 0 {
		return g.rest(p), nil
	}
	if g.before != nil {
		g.before()
	}
	if !g.resting || g.near < busyReads {
		g.hush(false)
		return g.read(p)
	}
	if !g.full {
		g.hush(true)
		time.Sleep(untilTick(0))
	}
	if g.hushed && unread(g.tcp) == 0 {
		g.hush(false) // Else nobody would hear of the next packet.
	}
	if len(p) >= gatherBytes {
		return g.read(p)
	}
	g.buffer = gatherBuffers.Get().(*[gatherBytes]byte)
	n, err := g.read(g.buffer[:])
	g.left = g.buffer[:n]
	return g.rest(p), err
}

// hush has the kernel tell of nothing until there is much, or of everything.
func (g *gatherer) hush(on bool) {
	if on == g.hushed {
		return
	}
	if g.tcp == nil {
		g.tcp = layersOf(g.Conn).tcp
	}
	if g.tcp == nil {
		return
	}
	least := 1
	if on {
		least = hushBytes
	}
	g.hushed = tellFrom(g.tcp, least) && on
}

// rest hands out what is left.
func (g *gatherer) rest(p []byte) int {
	n := copy(p, g.left)
	if g.left = g.left[n:]; len(g.left) == 0 {
		gatherBuffers.Put(g.buffer)
		g.buffer, g.left = nil, nil
	}
	return n
}

func (g *gatherer) read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	now := time.Now()
	if g.near++; now.Sub(g.latest) >= 2*gatherTime {
		g.near = 0
	}
	g.latest, g.full = now, n == len(p)
	return n, err
}
