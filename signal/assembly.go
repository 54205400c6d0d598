package signal

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// assembly makes messages of the bytes that come on a socket. Whole frames are handled where they
// were read; only what is not whole yet is kept.
//
// Of a message that is too large the beginning is kept until it is as long as a message may be, so that whoever
// refuses it can read there what it is. The rest is dropped as it comes, which costs the client as much as it costs us, and
// after it the socket goes on. Who has more dropped than the bound is heard no longer.
type assembly struct {
	partial   *buffer       // the beginning of a frame, nil between frames
	fragments *buffer       // the payloads so far of a message in several frames, nil for none
	count     int           // of the fragments
	op        opcode        // of that message; 0 for none
	refused   bool          // the message is too large, and what still comes of it is dropped
	skip      uint64        // bytes of a frame to drop
	deaf      bool          // too much was dropped, and no more messages are taken
	waste     *rate.Limiter // bounds what is dropped, in bytes; nil as long as nothing was
}

// minPartial is the smallest room for the rest of a frame, lest much is read little by little.
const minPartial = 4 << 10

// maxFragments is how many frames a message may come in: empty ones must not come for ever.
const maxFragments = 4096

// maxWaste is how much a client may have dropped at once, as a multiple of the longest message. Each second one more is
// forgiven.
const maxWaste = 16

// wastedFrame is what a dropped frame counts besides its payload.
const wastedFrame = 64

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

// frames handles all frames of which everything that is wanted has come, and returns the rest.
func (a *assembly) frames(b []byte, s *socket) (rest []byte, err error) {
	for {
		dropped := min(a.skip, uint64(len(b)))
		a.skip -= dropped
		b = b[dropped:]
		h, size, err := parseHeader(b)
		if err == nil && len(b) >= 2 {
			err = a.expects(h)
		}
		if err != nil || size == 0 {
			return b, err
		}
		wanted := a.wanted(h, s)
		if len(b)-size < wanted {
			return b, nil
		}
		payload := b[size : size+wanted]
		b = b[size+wanted:]
		a.skip = h.length - uint64(wanted)
		unmask(payload, h.key)
		if err := a.frame(h, payload, s); err != nil {
			return nil, err
		}
	}
}

// expects fails when a frame, of which the first two bytes are there, is not one that may follow those before.
func (a *assembly) expects(h frameHeader) error {
	if h.op.isControl() || a.deaf || (a.op == opContinuation) != (h.op == opContinuation) {
		return nil
	}
	return fmt.Errorf("%w: a continuation is missing or has no beginning", errProtocol)
}

// wanted returns how much of a frame's payload is to be read: all of it, unless it makes a message too large.
func (a *assembly) wanted(h frameHeader, s *socket) int {
	switch {
	case h.op.isControl():
		return int(h.length)
	case a.deaf || a.refused:
		return 0
	}
	room := s.limits.message
	if a.fragments != nil {
		room -= len(a.fragments.b)
	}
	return int(min(h.length, uint64(room)))
}

// frame handles a frame, of whose payload the wanted part is there.
func (a *assembly) frame(h frameHeader, payload []byte, s *socket) error {
	begins := a.op == opContinuation
	switch {
	case h.op.isControl():
		return s.control(h.op, payload)
	case a.deaf:
		s.hasty = true
		return nil
	case a.refused || a.skip > 0 || a.count == maxFragments:
		a.refuse(h, payload, s)
	case begins && h.fin:
		return s.handOn(h.op, payload)
	default:
		a.add(payload)
	}
	s.hasty = s.hasty || a.refused || a.count > manyFragments
	if begins {
		a.op = h.op
	}
	if !h.fin {
		return nil
	}
	return a.finish(s)
}

// add adds a fragment to the message.
func (a *assembly) add(payload []byte) {
	a.fragments = a.fragments.grown(len(payload))
	a.fragments.b = append(a.fragments.b, payload...)
	a.count++
}

// manyFragments is more than a client needs, which writes a buffer at a time.
const manyFragments = 256

// refuse drops a frame of a message that is too large, and tells so with the first.
func (a *assembly) refuse(h frameHeader, payload []byte, s *socket) {
	if a.waste == nil {
		a.waste = rate.NewLimiter(rate.Limit(s.limits.message), maxWaste*min(s.limits.message, math.MaxInt32/maxWaste))
	}
	dropped := int(min(h.length, math.MaxInt32/2)) + wastedFrame
	if a.fragments != nil {
		dropped += len(a.fragments.b)
	}
	a.deaf = !a.waste.AllowN(time.Now(), dropped)
	if !a.refused {
		a.refused = true
		s.to.tooLarge(a.beginning(payload))
		a.fragments.free()
		a.fragments = nil
	}
	if a.deaf {
		s.to.tooMuch()
	}
}

// beginning returns what is there of a message with the wanted part of its last frame.
func (a *assembly) beginning(payload []byte) []byte {
	if a.fragments == nil {
		return payload
	}
	a.add(payload)
	return a.fragments.b
}

// finish ends a message in several frames, which is handed on unless it was refused.
func (a *assembly) finish(s *socket) error {
	op, text, refused := a.op, a.fragments, a.refused
	a.op, a.fragments, a.count, a.refused = opContinuation, nil, 0, false
	if refused {
		return nil
	}
	defer text.free()
	return s.handOn(op, text.b)
}

// held returns how many bytes the parts take that are still to become whole.
func (a *assembly) held() int { return a.partial.size() + a.fragments.size() }

// release gives all back when reading has ended.
func (a *assembly) release() {
	a.partial.free()
	a.fragments.free()
	a.partial, a.fragments = nil, nil
}

// handOn gives the receiver a whole message. RFC 6455, section 8.1, wants a text that is not UTF-8 to end the connection.
func (s *socket) handOn(op opcode, data []byte) error {
	if op == opText && !utf8.Valid(data) {
		return errNotUTF8
	}
	s.to.message(op, data)
	return nil
}
