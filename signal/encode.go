package signal

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// The functions here append messages of the server to a buffer, byte for byte what encoding/json
// makes of the same fields in the order of the contract: type, id, user_id, room_id, target_id, data.

// appendHead begins a message with the fields that are not empty. What it returns lacks the end,
// which appendEnd, appendData or appendDocument adds.
func appendHead[ID string | []byte](dst []byte, typ string, id ID, user, room string) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, typ...) // None needs an escape.
	dst = append(dst, '"')
	dst = appendField(dst, `,"id":`, id)
	dst = appendField(dst, `,"user_id":`, user)
	return appendField(dst, `,"room_id":`, room)
}

func appendField[T string | []byte](dst []byte, name string, text T) []byte {
	if len(text) == 0 {
		return dst
	}
	return appendText(append(dst, name...), text, false)
}

func appendEnd(dst []byte) []byte { return append(dst, '}') }

// appendData ends a message with a JSON value as data, unless it is empty.
func appendData(dst, data []byte) []byte {
	if len(data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	}
	return appendEnd(dst)
}

// appendDocument ends a message with a JSON document in a string as data.
func appendDocument(dst, document []byte) []byte {
	return appendEnd(appendField(dst, `,"data":`, document))
}

// appendText appends a JSON string. Within a document in a string, characters that mean something
// in HTML are escaped too.
func appendText[T string | []byte](dst []byte, text T, html bool) []byte {
	dst = append(dst, '"')
	done := 0 // what comes before is appended
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf && !mustEscape(c, html) {
			i++
			continue
		}
		size, escape := escapeOf(text[i:min(i+utf8.UTFMax, len(text))], html)
		if escape != "" {
			dst = append(append(dst, text[done:i]...), escape...)
			done = i + size
		}
		i += size
	}
	return append(append(dst, text[done:]...), '"')
}

func mustEscape(c byte, html bool) bool {
	return c < ' ' || c == '"' || c == '\\' || html && (c == '<' || c == '>' || c == '&')
}

// escapeOf returns the size of the first character of a text and how it is written in a JSON
// string, empty for as it is. The line ends U+2028 and U+2029 are escaped because they may not be
// in a string of JavaScript.
func escapeOf[T string | []byte](text T, html bool) (size int, escape string) {
	if c := text[0]; c < utf8.RuneSelf {
		if mustEscape(c, html) {
			return 1, asciiEscapes[c]
		}
		return 1, ""
	}
	var first [utf8.UTFMax]byte
	r, size := utf8.DecodeRune(first[:copy(first[:], text)])
	switch {
	case r == utf8.RuneError && size == 1:
		return 1, `\ufffd`
	case r == '\u2028':
		return size, `\u2028`
	case r == '\u2029':
		return size, `\u2029`
	}
	return size, ""
}

// asciiEscapes are the escapes of the characters that mustEscape names.
var asciiEscapes = func() (escapes [utf8.RuneSelf]string) {
	for c := range byte(utf8.RuneSelf) {
		escapes[c] = `\u00` + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15])
	}
	for c, letter := range map[byte]string{'"': `"`, '\\': `\`, '\b': "b", '\f': "f", '\n': "n", '\r': "r", '\t': "t"} {
		escapes[c] = `\` + letter
	}
	return escapes
}()

// relayOverhead is about how much longer than its data a relayed message is.
const relayOverhead = 256

// appendRelay appends a client's message as its receivers get it. The data is not encoded anew, so
// that it arrives byte for byte as it was sent.
func appendRelay(dst []byte, env envelope, user, room string) []byte {
	dst = appendHead(dst, env.Type.String(), "", user, room)
	dst = appendField(dst, `,"target_id":`, env.TargetID)
	return appendData(dst, env.Data)
}

// ownersFrame returns an app message of the owner, whose data is JSON.
func ownersFrame(room string, data []byte) []byte {
	return appendData(appendHead(nil, appMessage.String(), "", ownersID, room), data)
}

func appendAck(dst, id []byte) []byte { return appendEnd(appendHead(dst, typeAck, id, "", "")) }

// appendAckMissed appends an ack that names the users who could not be reached, if any.
func appendAckMissed(dst []byte, id string, missed []stay) []byte {
	dst = appendHead(dst, typeAck, id, "", "")
	for i, who := range missed {
		if i == 0 {
			dst = append(dst, `,"missed":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = appendText(dst, who.User, false)
	}
	if len(missed) > 0 {
		dst = append(dst, ']')
	}
	return appendEnd(dst)
}

func appendRoomFull(dst, id []byte, room string) []byte {
	return appendEnd(appendHead(dst, typeRoomFull, id, "", room))
}

// appendError appends an error. Its text may be a message's own or one that is common to many.
func appendError[T string | []byte](dst, id []byte, code int, message T) []byte {
	var space [256]byte
	doc := strconv.AppendInt(append(space[:0], `{"code":`...), int64(code), 10)
	doc = appendText(append(doc, `,"message":`...), message, true)
	return appendDocument(appendHead(dst, typeError, id, "", ""), append(doc, '}'))
}

func appendUserJoined(dst []byte, room, user string, users []string) []byte {
	var space [512]byte
	doc := appendText(append(space[:0], `{"user_id":`...), user, true)
	doc = append(doc, `,"users":[`...)
	for i, u := range users {
		if i > 0 {
			doc = append(doc, ',')
		}
		doc = appendText(doc, u, true)
	}
	return appendDocument(appendHead(dst, typeUserJoined, "", user, room), append(doc, `]}`...))
}

func appendUserLeft(dst []byte, room, user, reason string) []byte {
	var space [64]byte
	doc := appendText(append(space[:0], `{"reason":`...), reason, true)
	return appendDocument(appendHead(dst, typeUserLeft, "", user, room), append(doc, '}'))
}

func errorFrame(id string, code int, message string) []byte {
	return appendError(nil, []byte(id), code, message)
}

func userJoinedFrame(room, user string, users []string) []byte {
	return appendUserJoined(nil, room, user, users)
}

func userLeftFrame(room, user, reason string) []byte {
	return appendUserLeft(nil, room, user, reason)
}

// objectFrame returns a message whose data is a plain object, as rare ones have it. The data's type
// is ours, so that encoding cannot fail.
func objectFrame(typ, user string, data any) []byte {
	var object bytes.Buffer
	enc := json.NewEncoder(&object)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		panic("signal: encoding " + typ + ": " + err.Error())
	}
	return appendData(appendHead(nil, typ, "", user, ""), bytes.TrimSuffix(object.Bytes(), []byte("\n")))
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
	// Nodes are the other nodes whose servers are among them.
	Nodes []string
}

func (c ICEConfig) servers() []ICEServer {
	if c.Servers == nil {
		return []ICEServer{}
	}
	return c.Servers
}

func (c ICEConfig) seconds() int { return int(c.TTL / time.Second) }
