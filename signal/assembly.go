package signal

import "fmt"

// assembly makes messages of the bytes that come on a socket. Whole frames are handled where they
// were read; only what is not whole yet is kept.
type assembly struct {
	partial   *buffer // the beginning of a frame, nil between frames
	fragments *buffer // the payloads so far of a message in several frames, nil for none
	op        opcode  // of that message; 0 for none
	skip      uint64  // bytes of a frame to drop
	deaf      bool    // a message was too large, and no more are taken
}

// minPartial is the smallest room for the rest of a frame, lest much is read little by little.
const minPartial = 4 << 10

// space returns where to read to: space, or behind the part of a frame that has come before.
func (a *assembly) space(space []byte) []byte {
	p := a.partial
	if p == nil {
		return space
	}
	if len(p.b) == cap(p.b) {
		p = p.grown(1)
		a.partial = p
	}
	return p.b[len(p.b):cap(p.b)]
}

// take handles bytes that were read to where space said, for s.
func (a *assembly) take(read []byte, s *socket) error {
	p := a.partial
	if p != nil {
		p.b = p.b[:len(p.b)+len(read)]
		read = p.b
	}
	rest, err := a.frames(read, s)
	switch {
	case err != nil:
	case len(rest) == 0:
		p.free()
		a.partial = nil
	case p != nil:
		p.b = p.b[:copy(p.b, rest)]
	default:
		a.partial = newBuffer(max(minPartial, len(rest)))
		a.partial.b = append(a.partial.b, rest...)
	}
	return err
}

// frames handles all whole frames and returns the rest.
func (a *assembly) frames(b []byte, s *socket) (rest []byte, err error) {
	for {
		dropped := min(a.skip, uint64(len(b)))
		a.skip -= dropped
		b = b[dropped:]
		h, size, err := parseHeader(b)
		if err != nil || size == 0 {
			return b, err
		}
		if !h.op.isControl() && a.drops(h, s) {
			a.skip = h.length
			b = b[size:]
			continue
		}
		end := uint64(size) + h.length
		if uint64(len(b)) < end {
			return b, nil
		}
		payload := b[size:end]
		unmask(payload, h.key)
		if err := a.frame(h, payload, s); err != nil {
			return nil, err
		}
		b = b[end:]
	}
}

// drops reports whether a data frame is not wanted: the one that makes a message too large, and all
// after it.
func (a *assembly) drops(h frameHeader, s *socket) bool {
	if a.deaf {
		return true
	}
	size := h.length
	if a.fragments != nil {
		size += uint64(len(a.fragments.b))
	}
	if size <= uint64(s.limits.message) {
		return false
	}
	a.deaf = true
	s.to.tooLarge()
	return true
}

// frame handles a whole frame.
func (a *assembly) frame(h frameHeader, payload []byte, s *socket) error {
	switch {
	case h.op.isControl():
		return s.control(h.op, payload)
	case (h.op == opContinuation) != (a.op != opContinuation):
		return fmt.Errorf("%w: a continuation is missing or has no beginning", errProtocol)
	case h.fin && a.op == opContinuation:
		s.to.message(h.op, payload)
		return nil
	case a.op == opContinuation:
		a.op = h.op
	}
	a.fragments = a.fragments.grown(len(payload))
	a.fragments.b = append(a.fragments.b, payload...)
	if h.fin {
		s.to.message(a.op, a.fragments.b)
		a.fragments.free()
		a.op, a.fragments = opContinuation, nil
	}
	return nil
}

// release gives all back when reading has ended.
func (a *assembly) release() {
	a.partial.free()
	a.fragments.free()
	a.partial, a.fragments = nil, nil
}
