package signal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"cline-meet/signal/signal/auth"
)

// The types of messages that only the server sends.
const (
	typeSTUNConfig = "stun_config" // clients ask for one by the same name
	typeUserJoined = "user_joined"
	typeUserLeft   = "user_left"
	typeRoomFull   = "room_full"
	typeError      = "error"
	typeAck        = "ack"
	typeReconnect  = "reconnect"
)

// messageType is the type of a message from a client.
type messageType uint8

const (
	unknownType messageType = iota
	joinRoom
	leaveRoom
	offer
	answer
	iceCandidate
	appMessage
	stunConfig
	authMessage
	messageTypes // how many there are
)

var messageTypeNames = [messageTypes]string{"unknown", "join_room", "leave_room", "offer", "answer", "ice_candidate", "message", typeSTUNConfig, "auth"}

func (t messageType) String() string { return messageTypeNames[t] }

// messageTypeOf returns the type that has a name on the wire.
func messageTypeOf(name []byte) messageType {
	switch string(name) {
	case "join_room":
		return joinRoom
	case "leave_room":
		return leaveRoom
	case "offer":
		return offer
	case "answer":
		return answer
	case "ice_candidate":
		return iceCandidate
	case "message":
		return appMessage
	case typeSTUNConfig:
		return stunConfig
	case "auth":
		return authMessage
	}
	return unknownType
}

// The codes of error messages.
const (
	codeBadRequest   = 400
	codeUnauthorized = 401
	codeForbidden    = 403
	codeNotMember    = 404
	codeNoRoom       = 409
	codeGone         = 410
	codeTooLarge     = 413
	codeRateLimited  = 429
	codeUnavailable  = 503
)

const (
	maxIDLen   = 64
	maxRoomLen = 128
)

// clientError is a fault of the client or a condition it can act on; it is told to the client and
// never ends the connection by itself.
type clientError struct {
	code    int
	message string
	reason  auth.Reason // of who was not let in
}

func (e *clientError) Error() string { return fmt.Sprintf("%d %s", e.code, e.message) }

func fault(code int, format string, args ...any) error {
	return &clientError{code: code, message: fmt.Sprintf(format, args...)}
}

var (
	errNoObject = fault(codeBadRequest, "not a JSON object")
	errNoType   = fault(codeBadRequest, "type: missing")
	errLongID   = fault(codeBadRequest, "id: longer than %d characters", maxIDLen)
)

// envelope is a message from a client. Its fields are parts of the frame as the client wrote them,
// or decoded when they are escaped, and live as long as that: who keeps one copies it.
type envelope struct {
	Type     messageType
	Name     []byte // of the type
	ID       []byte
	TargetID []byte
	Data     []byte // a JSON value

	// What the participant knows of it: the key of its id, and whom the message has still to reach when it was
	// sent before; nil for everybody.
	key    uint64
	missed []stay
}

// decode reads one message, which must be UTF-8 as sockets see to. It checks the fields' JSON types and bounds,
// not whether the type of message needs them. On error the envelope holds what could be read, also of a message of which only
// the beginning is there, so that the error can carry the message's id.
//
// Unlike encoding/json it wants exact field names, and each name once in an object.
func decode(frame []byte) (envelope, error) {
	var env envelope
	var problem error
	text := func(to *[]byte, field string, value []byte) {
		var ok bool
		if *to, ok = unquote(value); !ok && problem == nil {
			problem = fault(codeBadRequest, "%s: must be a string", field)
		}
	}
	err := members(frame, func(name, value []byte) {
		switch string(name) {
		case "type":
			text(&env.Name, "type", value)
		case "id":
			text(&env.ID, "id", value)
		case "target_id":
			text(&env.TargetID, "target_id", value)
		case "data":
			env.Data = value
		}
	})
	env.Type = messageTypeOf(env.Name)
	switch {
	case err != nil:
		problem = err
	case problem != nil:
	case utf8.RuneCount(env.ID) > maxIDLen:
		problem = errLongID
	case len(env.Name) == 0:
		problem = errNoType
	}
	if utf8.RuneCount(env.ID) > maxIDLen {
		env.ID = nil
	}
	return env, problem
}

// objectReader reads JSON objects. It is used again and again, because a new one costs memory.
type objectReader struct {
	json jsontext.Decoder
	text bytes.Buffer
}

var objectReaders = sync.Pool{New: func() any { return new(objectReader) }}

// members calls visit with the name and the value of each member of a JSON object, which must be
// UTF-8. The name is decoded; the value is the part of the object that it was read from. An error
// is a *clientError, after members that were visited already.
func members(object []byte, visit func(name, value []byte)) error {
	r := objectReaders.Get().(*objectReader)
	defer objectReaders.Put(r)
	err := r.read(object, visit)
	if err == nil {
		return nil
	}
	var twice *jsontext.SyntacticError
	if errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &twice) {
		return fault(codeBadRequest, "%q is there twice in one object", truncate(twice.JSONPointer.LastToken()))
	}
	return errNoObject
}

// surrogates lets lone surrogates pass when they are escaped, as JavaScript writes them. It would let pass
// also what is not UTF-8.
var surrogates = jsontext.AllowInvalidUTF8(true)

func (r *objectReader) read(object []byte, visit func(name, value []byte)) error {
	r.text = *bytes.NewBuffer(object)
	r.json.Reset(&r.text, surrogates)
	if begin, err := r.json.ReadToken(); err != nil || begin.Kind() != '{' {
		return errNoObject
	}
	for r.json.PeekKind() == '"' {
		quoted, err := r.json.ReadValue()
		if err != nil {
			return err
		}
		name, _ := unquote(quoted)
		value, err := r.json.ReadValue()
		if err != nil {
			return err
		}
		visit(name, value[:len(value):len(value)])
	}
	if _, err := r.json.ReadToken(); err != nil { // It is the end of the object, or else an error.
		return err
	}
	if _, err := r.json.ReadToken(); err != io.EOF {
		return errNoObject
	}
	return nil
}

// unquote returns the text of a JSON string, which is a part of it when nothing is escaped. Null
// counts as an empty one; it reports false for other values.
func unquote(value []byte) (text []byte, ok bool) {
	switch {
	case string(value) == "null":
		return nil, true
	case value[0] != '"':
		return nil, false
	case bytes.IndexByte(value, '\\') < 0:
		return value[1 : len(value)-1], true
	}
	text, _ = jsontext.AppendUnquote(nil, value) // It is valid; a lone surrogate has been replaced.
	return text, true
}

// roomID reads the room of a join_room from its data, plain or encoded as a string.
func roomID(data []byte) (string, error) {
	if len(data) > 0 && data[0] == '"' {
		data, _ = unquote(data)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", fault(codeBadRequest, "data: missing")
	}
	var room []byte
	isText := true
	err := members(data, func(name, value []byte) {
		if string(name) == "room_id" {
			room, isText = unquote(value)
		}
	})
	switch {
	case err == errNoObject:
		return "", fault(codeBadRequest, "data: must be an object with a string room_id")
	case err != nil:
		return "", err
	case !isText:
		return "", fault(codeBadRequest, "room_id: must be a string")
	case len(room) == 0:
		return "", fault(codeBadRequest, "room_id: missing")
	case len(room) > maxRoomLen:
		return "", fault(codeBadRequest, "room_id: longer than %d characters", maxRoomLen)
	case bytes.ContainsFunc(room, func(r rune) bool { return !roomChar(r) }):
		return "", fault(codeBadRequest, "room_id: only A-Z a-z 0-9 . _ ~ : @ + - are allowed")
	}
	return string(room), nil
}

func roomChar(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		strings.ContainsRune("._~:@+-", r)
}

// hasDocument reports whether data can be what offer, answer and ice_candidate carry: an object or
// a string that encodes one.
func hasDocument(data []byte) bool {
	return len(data) > 0 && (data[0] == '"' || data[0] == '{')
}
