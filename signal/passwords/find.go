package passwords

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Password is an ICE password and the user name fragment that it belongs to.
type Password struct {
	Ufrag    string `json:"ufrag"`
	Password string `json:"password"`
}

// The bounds of RFC 8839, section 5.4. A shorter password could be guessed, or be one that a server has which is
// nobody's ICE agent.
const (
	minUfrag    = 4
	minPassword = 22
	maxLength   = 256
)

// IsValid reports whether an ICE agent may have that password. The RFC allows fewer characters than some agents use.
func (p Password) IsValid() bool {
	return minUfrag <= len(p.Ufrag) && len(p.Ufrag) <= maxLength && minPassword <= len(p.Password) && len(p.Password) <= maxLength &&
		!strings.ContainsFunc(p.Ufrag+p.Password, func(r rune) bool { return r <= ' ' || r > '~' })
}

// maxFound is how many passwords one message may tell: a media section that is not bundled has one of its own.
const maxFound = 32

// maxDepth is how many times text may be a string of JSON in text.
const maxDepth = 4

// mark is in each message that has a password, whatever it is wrapped in.
var mark = []byte("ice-pwd:")

// Find returns the passwords in the SDP of a message, which is JSON: an SDP may be any string in it, also one in a document that
// is a string itself. Most messages have none, which costs a look. The message is not changed.
func Find(message []byte) []Password {
	var f finder
	f.text(message, maxDepth)
	return f.found
}

type finder struct{ found []Password }

// text looks through a text, which is JSON or SDP.
func (f *finder) text(text []byte, depth int) {
	if !bytes.Contains(text, mark) {
		return
	}
	text = bytes.TrimSpace(text)
	if strings.IndexByte(`{["`, text[0]) < 0 {
		f.sdp(text)
	} else if depth > 0 {
		f.document(text, depth-1)
	}
}

// document looks through the strings of a JSON document.
func (f *finder) document(text []byte, depth int) {
	d := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	for {
		if d.PeekKind() != '"' {
			if _, err := d.ReadToken(); err != nil {
				return
			}
			continue
		}
		quoted, err := d.ReadValue()
		if err != nil {
			return
		}
		if bytes.Contains(quoted, mark) {
			unquoted, _ := jsontext.AppendUnquote(nil, quoted) // It is valid; a lone surrogate is replaced.
			f.text(unquoted, depth)
		}
	}
}

// sdp reads the attributes of a session and of its media sections, or of a fragment of them (RFC 8840). What a section does not say
// the session says for it.
func (f *finder) sdp(text []byte) {
	var session, section Password
	media := false
	end := func() {
		if !media {
			session = section
		}
		f.add(Password{cmp.Or(section.Ufrag, session.Ufrag), cmp.Or(section.Password, session.Password)})
		section = Password{}
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		switch name, value, _ := bytes.Cut(line, []byte(":")); {
		case bytes.HasPrefix(line, []byte("m=")):
			end()
			media = true
		case bytes.HasPrefix(line, []byte("v=")):
			end()
			session, media = Password{}, false
		case string(name) == "a=ice-ufrag":
			section.Ufrag = string(value)
		case string(name) == "a=ice-pwd":
			section.Password = string(value)
		}
	}
	end()
}

func (f *finder) add(p Password) {
	if p.IsValid() && len(f.found) < maxFound && !slices.Contains(f.found, p) {
		f.found = append(f.found, p)
	}
}
