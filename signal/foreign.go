package signal

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"cline-meet/signal/state"
)

// A browser that is given a text which is not UTF-8 closes its connection, comes back and is given it again. Sockets let no
// such text in, but another node may be of a build that does: what comes from there is looked at once more.

// soundMessage returns a message of another node, without its frame if that is not UTF-8: its numbers count all the same.
func (s *Server) soundMessage(m state.Message) state.Message {
	m.Frame = s.soundFrame(m.Frame)
	return m
}

// soundFrame returns a frame of another node, or nothing if it is not UTF-8.
func (s *Server) soundFrame(frame []byte) []byte {
	if utf8.Valid(frame) {
		return frame
	}
	s.metrics.invalid.Inc()
	return nil
}

// soundSnapshot drops what is not UTF-8 of what waits for a participant. Kept frames are counted by the client, so that each
// must be there: of those the bytes are replaced that are no characters.
func (s *Server) soundSnapshot(snap *snapshot) {
	for i, frame := range snap.Kept {
		if s.soundFrame(frame) == nil {
			snap.Kept[i] = bytes.ToValidUTF8(frame, []byte("\ufffd"))
		}
	}
	snap.Early = slices.DeleteFunc(snap.Early, func(h heldMessage) bool { return s.soundFrame(h.Frame) == nil })
	for _, m := range snap.Marks {
		for i := range m.Held {
			m.Held[i].Frame = s.soundFrame(m.Held[i].Frame)
		}
	}
}
