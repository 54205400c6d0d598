package signal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// The types of messages, as PROTOCOL.md names them.
const (
	typeJoinRoom     = "join_room"
	typeLeaveRoom    = "leave_room"
	typeOffer        = "offer"
	typeAnswer       = "answer"
	typeICECandidate = "ice_candidate"
	typeMessage      = "message"
	typeSTUNConfig   = "stun_config"
	typeUserJoined   = "user_joined"
	typeUserLeft     = "user_left"
	typeRoomFull     = "room_full"
	typeError        = "error"
	typeAck          = "ack"
	typeReconnect    = "reconnect"
)

// The codes of error messages.
const (
	codeBadRequest  = 400
	codeNotMember   = 404
	codeNoRoom      = 409
	codeGone        = 410
	codeTooLarge    = 413
	codeRateLimited = 429
	codeUnavailable = 503
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
}

func (e *clientError) Error() string { return fmt.Sprintf("%d %s", e.code, e.message) }

func fault(code int, format string, args ...any) error {
	return &clientError{code: code, message: fmt.Sprintf(format, args...)}
}

// envelope is a message from a client. Data stays as the client wrote it.
type envelope struct {
	Type     string
	ID       string
	TargetID string
	Data     json.RawMessage
}

// decode reads one message. It checks the fields' JSON types and bounds, not whether the type of
// message needs them. On error the envelope holds what could be read, so that the error can carry
// the message's id.
func decode(frame []byte) (envelope, error) {
	var env envelope
	var raw struct {
		Type     json.RawMessage `json:"type"`
		ID       json.RawMessage `json:"id"`
		TargetID json.RawMessage `json:"target_id"`
		Data     json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(frame, &raw); err != nil {
		return env, fault(codeBadRequest, "not a JSON object")
	}
	env.Data = raw.Data
	err := errors.Join(
		text(raw.ID, "id", &env.ID),
		text(raw.Type, "type", &env.Type),
		text(raw.TargetID, "target_id", &env.TargetID),
	)
	switch {
	case err != nil:
		return env, fault(codeBadRequest, "%v", err)
	case utf8.RuneCountInString(env.ID) > maxIDLen:
		env.ID = ""
		return env, fault(codeBadRequest, "id: longer than %d characters", maxIDLen)
	case env.Type == "":
		return env, fault(codeBadRequest, "type: missing")
	}
	return env, nil
}

// text reads an optional JSON string; null counts as absent.
func text(raw json.RawMessage, field string, to *string) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, to) != nil {
		return fmt.Errorf("%s: must be a string", field)
	}
	return nil
}

// roomID reads the room of a join_room from its data, plain or encoded as a string.
func roomID(data json.RawMessage) (string, error) {
	if len(data) > 0 && data[0] == '"' {
		var inner string
		if err := json.Unmarshal(data, &inner); err != nil {
			return "", fault(codeBadRequest, "data: not a JSON string")
		}
		data = json.RawMessage(inner)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", fault(codeBadRequest, "data: missing")
	}
	var body struct {
		RoomID *string `json:"room_id"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return "", fault(codeBadRequest, "data: must be an object with a string room_id")
	}
	switch {
	case body.RoomID == nil || *body.RoomID == "":
		return "", fault(codeBadRequest, "room_id: missing")
	case len(*body.RoomID) > maxRoomLen:
		return "", fault(codeBadRequest, "room_id: longer than %d characters", maxRoomLen)
	}
	for _, r := range []byte(*body.RoomID) {
		if !roomChar(r) {
			return "", fault(codeBadRequest, "room_id: only A-Z a-z 0-9 . _ ~ : @ + - are allowed")
		}
	}
	return *body.RoomID, nil
}

func roomChar(r byte) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		bytes.IndexByte([]byte("._~:@+-"), r) >= 0
}

// hasDocument reports whether data can be what offer, answer and ice_candidate carry: an object or
// a string that encodes one.
func hasDocument(data json.RawMessage) bool {
	return len(data) > 0 && (data[0] == '"' || data[0] == '{')
}

// serverMessage is a message from the server in the field order of the contract.
type serverMessage struct {
	Type   string `json:"type"`
	ID     string `json:"id,omitempty"`
	UserID string `json:"user_id,omitempty"`
	RoomID string `json:"room_id,omitempty"`
	// TargetID is set in relayed messages only.
	TargetID string `json:"target_id,omitempty"`
	Data     any    `json:"data,omitempty"`
}

// encode returns the frame of a message. Its types are ours, so it cannot fail.
func encode(m serverMessage) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		panic("signal: encoding " + m.Type + ": " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// document returns v as a JSON document in a string, the form of data on the wire.
func document(v any) string {
	doc, err := json.Marshal(v)
	if err != nil {
		panic("signal: encoding data: " + err.Error())
	}
	return string(doc)
}

func errorFrame(id string, code int, message string) []byte {
	return encode(serverMessage{Type: typeError, ID: id, Data: document(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, message})})
}

func userJoinedFrame(room, user string, users []string) []byte {
	return encode(serverMessage{Type: typeUserJoined, UserID: user, RoomID: room, Data: document(struct {
		UserID string   `json:"user_id"`
		Users  []string `json:"users"`
	}{user, users})})
}

func userLeftFrame(room, user, reason string) []byte {
	return encode(serverMessage{Type: typeUserLeft, UserID: user, RoomID: room, Data: document(struct {
		Reason string `json:"reason"`
	}{reason})})
}

// relayFrame returns a client's message as its receivers get it. The data is not encoded anew, so
// that it arrives byte for byte as it was sent.
func relayFrame(env envelope, user, room string) []byte {
	frame := encode(serverMessage{Type: env.Type, UserID: user, RoomID: room, TargetID: env.TargetID})
	if len(env.Data) == 0 {
		return frame
	}
	frame = append(frame[:len(frame)-1], `,"data":`...)
	frame = append(frame, env.Data...)
	return append(frame, '}')
}

// An ICEServer is one entry of the RTCConfiguration of a browser.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

// An ICEConfig is what a client needs to reach the STUN and TURN servers.
type ICEConfig struct {
	Servers []ICEServer
	// TTL is how long the credentials live; 0 when there are none that expire.
	TTL time.Duration
}

func (c ICEConfig) servers() []ICEServer {
	if c.Servers == nil {
		return []ICEServer{}
	}
	return c.Servers
}

func (c ICEConfig) seconds() int { return int(c.TTL / time.Second) }
