package signal

import (
	"bytes"
	"slices"

	"cline-meet/signal/signal/auth"
)

// Who may not publish may receive, and for that it needs offers, answers and candidates. So these pass if their SDP
// sends no media: browsers hold a peer to the direction that it has described (RFC 8829, section 5.10). Data
// channels have no direction; what comes over them is for the page to judge.

// receivesOnly reports whether this client may not publish, in the read loop.
func (p *participant) receivesOnly() bool {
	if p.srv.door == nil {
		return false
	}
	claims := p.granted()
	return claims != nil && !claims.Publish
}

func (p *participant) mayNotPublish() error {
	return p.srv.refusal(&auth.Error{Reason: auth.ReasonPublish, Text: "claim publish allows to receive only"})
}

// sends reports whether the data of an offer, answer or candidate, plain or encoded as a string, may send media. An offer or answer
// without an SDP may do anything, and a candidate with one is no candidate.
func sends(typ messageType, data []byte) bool {
	if len(data) > 0 && data[0] == '"' {
		data, _ = unquote(data)
	}
	var sdp []byte
	found := false
	err := members(data, func(name, value []byte) {
		if string(name) == "sdp" {
			sdp, found = unquote(value)
		}
	})
	if typ == iceCandidate && !found {
		return false
	}
	return err != nil || !found || sendsMedia(sdp)
}

// sendsMedia reports whether an SDP has a media section, other than for data, that sends.
func sendsMedia(sdp []byte) bool {
	session := direction{}
	var sections []direction
	at := &session
	for line := range bytes.Lines(sdp) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if bytes.IndexByte(line, '\r') >= 0 { // For Chromium it ends a line, for others it does not.
			return true
		}
		if kind, ok := bytes.CutPrefix(line, []byte("m=")); ok {
			sections = append(sections, newDirection(kind))
			at = &sections[len(sections)-1]
			continue
		}
		at.read(line)
	}
	return slices.ContainsFunc(sections, func(d direction) bool { return d.sends(session) })
}

// direction is what a media section, or the session before them, says of who sends.
type direction struct {
	data     bool // it is for data channels
	zero     bool // its port is 0
	bundled  bool // which does not mean that it is refused, as it shares the port of another
	sending  bool
	receives bool // it says that it does not send
}

// newDirection reads a media line: kind, port, protocol and formats.
func newDirection(line []byte) direction {
	fields := bytes.Fields(line)
	return direction{
		data: len(fields) > 2 && string(fields[0]) == "application" && bytes.HasSuffix(fields[2], []byte("SCTP")),
		zero: len(fields) > 1 && string(fields[1]) == "0",
	}
}

// read takes over what a line says. Browsers overlook what follows some attributes, so what only begins like one that sends counts as
// one, and what does not send has to say just that.
func (d *direction) read(line []byte) {
	switch begins := func(attribute string) bool { return bytes.HasPrefix(line, []byte(attribute)) }; {
	case begins("a=sendrecv"), begins("a=sendonly"):
		d.sending = true
	case begins("a=bundle-only"):
		d.bundled = true
	case string(line) == "a=recvonly", string(line) == "a=inactive":
		d.receives = true
	}
}

// sends reports whether a section sends, which it does unless it says otherwise, or the session for all.
func (d direction) sends(session direction) bool {
	switch {
	case d.data || d.zero && !d.bundled:
		return false
	case d.sending || d.receives:
		return d.sending
	}
	return session.sending || !session.receives
}
