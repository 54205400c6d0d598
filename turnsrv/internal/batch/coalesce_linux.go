package batch

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mergeTries is how many datagrams show whether merging pays.
	mergeTries = 512

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
type coalescing struct {
	on           bool
	seen, merged int
	wait         time.Duration
	retry        time.Time // retry is when it may be switched on again.
}

// learn learns from datagrams that came at once, of which some are merged and the
// longest run of others is of one size and sender. It returns what is to be set.
func (m *coalescing) learn(datagrams, merged, run int, now time.Time) (change bool) {
	if !m.on {
		if run < trainLength || now.Before(m.retry) {
			return false
		}
		m.on, m.seen, m.merged = true, 0, 0
		return true
	}
	m.seen += datagrams
	m.merged += merged
	if m.seen < mergeTries {
		return false
	}
	pays := m.merged*8 >= m.seen
	m.seen, m.merged = 0, 0
	if pays {
		m.wait = 0
		return false
	}
	m.on = false
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
