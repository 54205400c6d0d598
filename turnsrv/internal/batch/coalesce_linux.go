package batch

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mergeTries is how many datagrams show whether merging pays.
	mergeTries = 512

	// queueLength is how many datagrams wait in the buffer of a socket at most: the
	// kernel grants twice of what is asked for, and charges no less than 512 bytes
	// for each.
	queueLength = 2 * SocketBuffer / 512

	// mergeWait and mergeMaxWait bound the time between two attempts.
	mergeWait    = time.Second
	mergeMaxWait = time.Minute

	// trainLength is how many datagrams that look like one train are worth an
	// attempt.
	trainLength = 8
)

// coalescing decides whether the kernel hands over datagrams of one flow merged
// (UDP_GRO), as they came from the network interface or from a sender of this
// machine. That makes trains much cheaper and single packets a little dearer. It
// belongs to the loop that reads the socket.
//
// The kernel decides when it puts a datagram into the socket's queue. What waits
// there when merging is switched on is of single datagrams, thousands where a
// sender is faster than the loop, and says nothing of whether it pays. Hence a
// trial begins when all of that must have been read: the queue was empty, a merged
// one came, or as many were read as a queue can hold.
type coalescing struct {
	on           bool
	trial        bool // trial says that what is read was queued with merging on.
	seen, merged int
	wait         time.Duration
	retry        time.Time // retry is when it may be switched on again.
}

// arrived is what came of a socket with one read.
type arrived struct {
	datagrams int
	merged    int  // merged is how many of them are.
	run       int  // run is how many, from the first on, are of one size and sender.
	more      bool // more says that the queue may not be empty.
}

// learn learns from what came and returns whether merging is to be changed, to on.
func (m *coalescing) learn(a arrived, now time.Time) (change bool) {
	switch {
	case !m.on:
		m.on = a.run >= trainLength && !now.Before(m.retry)
		return m.on
	case !m.trial:
		m.seen += a.datagrams
		if !a.more || a.merged > 0 || m.seen >= queueLength {
			m.trial, m.seen = true, 0
		}
		return false
	}
	m.seen += a.datagrams
	m.merged += a.merged
	if m.seen < mergeTries {
		return false
	}
	pays := m.merged*8 >= m.seen
	m.seen, m.merged = 0, 0
	if pays {
		m.wait = 0
		return false
	}
	m.on, m.trial = false, false
	m.wait = min(max(2*m.wait, mergeWait), mergeMaxWait)
	m.retry = now.Add(m.wait)
	return true
}

// merge makes the kernel merge, or not. Where it cannot, nothing is merged.
func (s *Socket) merge(on bool) {
	fd, ok := s.acquire()
	if !ok {
		return
	}
	defer s.release()
	value := 0
	if on {
		value = 1
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, value)
}
