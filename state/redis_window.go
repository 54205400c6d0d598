package state

import "time"

// maxWindowBytes bounds what is kept of a stream to send it once more. What has left the window
// is lost, if it is asked for.
const maxWindowBytes = 4 << 20

// sent is a record in the window of a stream.
type sent struct {
	number uint64
	before uint64 // the record that the receiver must have before this one
	blob   []byte
	at     time.Time
}

// repeatLocked composes a publish of what the receiver does not have, from the window: a run of
// consecutive numbers. What is not there any more is declared lost.
func (s *stream) repeatLocked() *batch {
	i := 0
	for i < len(s.window) && s.window[i].number <= s.from {
		i++
	}
	if i == len(s.window) {
		s.again = false
		return &batch{kind: "repeat", before: s.tip, first: s.tip + 1, lost: true}
	}
	b := &batch{kind: "repeat", before: s.window[i].before, first: s.window[i].number, lost: s.window[i].before > s.from}
	size := 0
	for ; i < len(s.window) && len(b.blobs) < maxBatch && size < maxBatchBytes; i++ {
		w := s.window[i]
		if w.number != b.first+uint64(len(b.blobs)) {
			break
		}
		b.blobs = append(b.blobs, w.blob)
		size += len(w.blob)
		s.from = w.number
	}
	s.again = i < len(s.window)
	return b
}

// repeat answers a node that asks for everything after a number. What is under way comes by itself, or is void;
// that it is known first. Who misses nothing is told so.
func (s *stream) repeat(from uint64) {
	s.mu.Lock()
	switch {
	case from < s.tip || from < s.last && len(s.flights) > 0:
		if !s.again || from < s.from {
			s.again, s.from = true, from
		}
	default:
		s.hintLocked()
	}
	s.mu.Unlock()
	s.start()
}

// hintLocked tells the receiver where the stream ends, so that it knows whether it has all. What was given a number
// behind that is void, unless it is under way.
func (s *stream) hintLocked() {
	if len(s.fills) > 0 {
		return
	}
	end := s.tip
	if len(s.flights) == 0 {
		end = s.last
	}
	s.fills = append(s.fills, &batch{kind: "hint", before: s.tip, first: end + 1})
}

// refresh is for the end of an outage, in which nobody could ask for anything: it keeps the window
// for longer and has the receiver told once more where the stream ends.
func (s *stream) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.window {
		s.window[i].at = time.Now()
	}
	s.hinted = 0
}

// trimLocked forgets what is older than a time, and the oldest of what is too much.
func (s *stream) trimLocked(since time.Time) {
	n := 0
	for n < len(s.window) && (s.held > maxWindowBytes || s.window[n].at.Before(since)) {
		s.held -= len(s.window[n].blob)
		n++
	}
	if s.window = s.window[n:]; len(s.window) == 0 {
		s.window = nil
	}
}

// age forgets what nobody will ask for any more.
func (s *stream) age() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trimLocked(time.Now().Add(-2 * s.r.cfg.Lease))
}

// tend does what a beat brings: it retries what is owed, forgets what nobody will ask for any more
// and, when the stream has fallen silent, tells the receiver where it ends, once. Limit is how many publishes
// the receiver can put in order.
func (s *stream) tend(limit int) {
	s.mu.Lock()
	s.limit = limit
	s.trimLocked(time.Now().Add(-2 * s.r.cfg.Lease))
	s.retry = len(s.owed) > 0
	if !s.running && s.hinted != s.tip {
		s.hintLocked()
		s.hinted = s.tip
	}
	todo := s.todoLocked()
	s.mu.Unlock()
	if todo {
		s.start()
	}
}
