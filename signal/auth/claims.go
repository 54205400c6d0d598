package auth

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

const (
	maxSubject = 256     // bytes of a subject
	maxProfile = 2 << 10 // bytes of a name and its attributes, which all others in the room are told
)

// Claims are who somebody is and what it may do. They are never changed.
type Claims struct {
	// Subject is who it is for the owner of the product. Clients are not told the subject of others.
	Subject string
	// Rooms are names of rooms, or beginnings of such with a * behind. Any room is allowed when it is nil.
	Rooms []string
	// Name and Attributes, a JSON object or empty, are for the others in the room.
	Name       string
	Attributes jsontext.Value
	// Expires is when all this is void, the zero time for never.
	Expires time.Time
	// Publish allows to send media and messages, Moderate to moderate, and Relay to have TURN credentials.
	Publish, Moderate, Relay bool
	// Limits are lower than those of the node.
	Limits Limits
}

// Limits are the limits of one connection; 0 is that of the node.
type Limits struct {
	MessageRate     float64 `json:"message_rate"`
	MessageBurst    int     `json:"message_burst"`
	MaxMessageBytes int     `json:"max_message_bytes"`
}

// Allows reports whether somebody may be in a room.
func (c *Claims) Allows(room string) bool {
	return c.Rooms == nil || slices.ContainsFunc(c.Rooms, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return pattern == room || open && strings.HasPrefix(room, prefix)
	})
}

// document is claims as they are written, in a token or in the answer of a backend. Its names match exactly, and
// none may appear twice: what two readers read differently is no basis for trust.
type document struct {
	jwt.RegisteredClaims
	Rooms      texts          `json:"rooms"`
	Name       string         `json:"name"`
	Attributes jsontext.Value `json:"attributes"`
	Publish    *bool          `json:"publish"`
	Moderate   bool           `json:"moderate"`
	Relay      bool           `json:"relay"`
	Limits     Limits         `json:"limits"`
}

// UnmarshalJSON reads claims as strictly as document says.
func (d *document) UnmarshalJSON(text []byte) error {
	type plain document
	if err := json.Unmarshal(text, (*plain)(d)); err != nil {
		return err
	}
	return checkTimes(text)
}

// lastSecond is the end of the year 9999. What is beyond is of no calendar, milliseconds as a rule, and at last wraps around: then
// what begins in the future seems to have begun.
const lastSecond = 253402300799

// checkTimes wants the times of claims to be numbers of seconds, RFC 7519, section 2. NumericDate would take texts and any number.
func checkTimes(text []byte) error {
	var times struct {
		Expires  *float64 `json:"exp"`
		Begins   *float64 `json:"nbf"`
		IssuedAt *float64 `json:"iat"`
	}
	err := json.Unmarshal(text, &times)
	for _, at := range []*float64{times.Expires, times.Begins, times.IssuedAt} {
		if err != nil || at != nil && math.Abs(*at) > lastSecond {
			return wrong("exp, nbf or iat", "is no number of seconds since 1970")
		}
	}
	return nil
}

// texts is one text or a list of texts. It is nil only if there was none.
type texts []string

// UnmarshalJSON reads a text or a list of texts. Null is neither: some languages write an empty list so, and without a list all is allowed.
func (t *texts) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return errors.New("a list is null")
	}
	if len(text) > 0 && text[0] == '"' {
		*t = make(texts, 1)
		return json.Unmarshal(text, &(*t)[0])
	}
	*t = texts{}
	return json.Unmarshal(text, (*[]string)(t))
}

// claims returns what a document says, or what is wrong with it.
func (d *document) claims() (*Claims, error) {
	c := &Claims{Subject: d.Subject, Rooms: d.Rooms, Name: d.Name, Attributes: d.Attributes, Moderate: d.Moderate, Relay: d.Relay,
		Publish: d.Publish == nil || *d.Publish, Limits: d.Limits}
	if d.ExpiresAt != nil {
		c.Expires = d.ExpiresAt.Time
	}
	if string(c.Attributes) == "null" {
		c.Attributes = nil
	}
	return c, c.check()
}

func (c *Claims) check() error {
	switch {
	case c.Subject == "":
		return wrong("sub", "is missing")
	case len(c.Subject) > maxSubject:
		return wrong("sub", "is longer than %d bytes", maxSubject)
	case len(c.Name)+len(c.Attributes) > maxProfile:
		return wrong("name and attributes", "are longer than %d bytes", maxProfile)
	case len(c.Attributes) > 0 && c.Attributes.Kind() != '{':
		return wrong("attributes", "is no object")
	case c.Limits.MessageRate < 0 || c.Limits.MessageBurst < 0 || c.Limits.MaxMessageBytes < 0:
		return wrong("limits", "has a negative number")
	}
	for _, pattern := range c.Rooms {
		if name := strings.TrimSuffix(pattern, "*"); strings.Contains(name, "*") {
			return wrong("rooms", "has a * that is not at the end")
		}
	}
	return nil
}

func wrong(claim, format string, args ...any) error {
	return &Error{ReasonClaims, "claim " + claim + ": " + fmt.Sprintf(format, args...)}
}

// current fails when the time of claims is over.
func (c *Claims) current(now time.Time) error {
	if !c.Expires.IsZero() && !now.Before(c.Expires) {
		return &Error{ReasonExpired, "the token has expired"}
	}
	return nil
}
