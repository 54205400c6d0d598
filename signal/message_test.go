package signal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzDecode compares decode with encoding/json, wherever both have the same contract.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"type":"join_room","data":"{\"room_id\": \"room-123\"}"}`,
		`{"type":"join_room","data":{"room_id":"r"},"id":"1"}`,
		`{"type":"offer","target_id":"user-1","data":"{\"sdp\":\"v=0\",\"type\":\"offer\"}"}`,
		`{"type":"message","data":[1,2,{"a":null}]}`,
		`{"type":"ice_candidate","target_id":"u","data":{"candidate":""}}`,
		`{"type":null,"id":null,"target_id":null,"data":null}`,
		`{"type":"\ud800","id":"` + strings.Repeat("x", 65) + `"}`,
		`[`, `"`, `{"type":1}`, `{"data":"\"\\u0000\""}`,
		` {"typ\u0065" : "message" , "data" :  {"a" : [ 1e5 , -0.1 ]} , "more" : {} } `,
		`{"type":"message","type":"offer"}`, `{"type":"message","data":{"a":1,"\u0061":2}}`,
		`{"Type":"message","TYPE":"offer"}`, `{"type":"message"} {}`, `{"type":"message"},`,
		"{\"type\":\"message\",\"data\":\"\xff\"}", `{"type":"message","data":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !utf8.Valid(frame) { // Sockets let none pass.
			return
		}
		before := bytes.Clone(frame)
		env, err := decode(frame)
		if !bytes.Equal(frame, before) {
			t.Fatalf("decode made %q of %q", frame, before)
		}
		var ce *clientError
		if err != nil && (!errors.As(err, &ce) || ce.code != codeBadRequest) {
			t.Fatalf("decode failed with %v", err)
		}
		if n := utf8.RuneCount(env.ID); n > maxIDLen {
			t.Fatalf("id of %d characters passed", n)
		}
		if want := acceptable(frame); (err == nil) != want {
			t.Fatalf("decode returned %v, encoding/json accepts: %v", err, want)
		}
		if err != nil {
			return
		}
		checkFields(t, env, frame)
		if room, err := roomID(env.Data); err == nil && (room == "" || len(room) > maxRoomLen || strings.ContainsAny(room, " \x00/\"")) {
			t.Fatalf("room id %q passed", room)
		}
		checkRelay(t, env)
	})
}

// acceptable reports what decode must say of a frame, by encoding/json alone.
func acceptable(frame []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(frame, &fields) != nil || fields == nil || namesTwice(frame) {
		return false
	}
	texts := map[string]string{}
	for _, field := range []string{"type", "id", "target_id"} {
		var text *string
		if raw, ok := fields[field]; ok && json.Unmarshal(raw, &text) != nil {
			return false
		}
		if text != nil {
			texts[field] = *text
		}
	}
	return texts["type"] != "" && utf8.RuneCountInString(texts["id"]) <= maxIDLen
}

// namesTwice reports whether any object of a valid document has a name twice.
func namesTwice(document []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(document))
	var twice func() bool
	twice = func() bool {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		found, seen := false, map[string]bool{}
		switch token {
		case json.Delim('['):
			for dec.More() {
				found = twice() || found
			}
		case json.Delim('{'):
			for dec.More() {
				name, _ := dec.Token()
				found = seen[name.(string)] || found
				seen[name.(string)] = true
				found = twice() || found
			}
		default:
			return false
		}
		_, _ = dec.Token()
		return found
	}
	return twice()
}

func checkFields(t *testing.T, env envelope, frame []byte) {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(frame, &fields); err != nil {
		t.Fatal(err)
	}
	for field, got := range map[string][]byte{"type": env.Name, "id": env.ID, "target_id": env.TargetID} {
		var want string
		if raw, ok := fields[field]; ok {
			_ = json.Unmarshal(raw, &want) // It has been seen to be a string or null.
		}
		if string(got) != want {
			t.Fatalf("%s of %q is %q, want %q", field, frame, got, want)
		}
	}
	if want := fields["data"]; !bytes.Equal(env.Data, want) {
		t.Fatalf("data of %q is %q, want %q", frame, env.Data, want)
	}
}

func checkRelay(t *testing.T, env envelope) {
	t.Helper()
	relayed := appendRelay(nil, env, "user-a", "r")
	var back struct {
		UserID   string `json:"user_id"`
		TargetID string `json:"target_id"`
		Data     json.RawMessage
	}
	if err := json.Unmarshal(relayed, &back); err != nil {
		t.Fatalf("relayed frame %q: %v", relayed, err)
	}
	if back.UserID != "user-a" || back.TargetID != string(env.TargetID) || !bytes.Equal(back.Data, env.Data) {
		t.Fatalf("relayed frame %q of %+v", relayed, env)
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := `{"type":"message","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`
	for frame, want := range map[string]string{
		`{"type":"message","id":"1","id":"2"}`:                      `"id" is there twice in one object`,
		`{"type":"message","more":1,"mor\u0065":2}`:                 `"more" is there twice in one object`,
		`{"type":"message","data":{"sdp":"a","sdp":"b"}}`:           `"sdp" is there twice in one object`,
		`{"type":"message","data":[{"a/~b":1,"a/~b":2}]}`:           `"a/~b" is there twice in one object`,
		`{"Type":"message"}`:                                        "type: missing",
		`{"type":""}`:                                               "type: missing",
		`{"type":null}`:                                             "type: missing",
		`{"type":7}`:                                                "type: must be a string",
		`{"id":{},"type":"message"}`:                                "id: must be a string",
		`{"target_id":["a"],"type":"message"}`:                      "target_id: must be a string",
		`{"type":"message","id":"` + strings.Repeat("é", 65) + `"}`: "id: longer than 64 characters",
		`[]`: "not a JSON object", `null`: "not a JSON object", ``: "not a JSON object", `{}}`: "not a JSON object",
		`{"type":"message"}x`: "not a JSON object", `{"type":"message",}`: "not a JSON object", deep: "not a JSON object",
	} {
		_, err := decode([]byte(frame))
		var ce *clientError
		if !errors.As(err, &ce) || ce.code != codeBadRequest || ce.message != want {
			t.Errorf("decode(%.80q) = %v, want 400 %s", frame, err, want)
		}
	}
}

// TestDecodeKeepsID sends faults whose error can carry the message's id.
func TestDecodeKeepsID(t *testing.T) {
	for _, frame := range []string{`{"id":"7","type":1}`, `{"type":1,"id":"7"}`, `{"target_id":1,"id":"\u0037","type":"offer"}`,
		`{"type":"offer","id":"7","data":"cut \u`, `{"id":"7","data":{"a":[{"b":`, "{\"id\":\"7\",\"data\":\"cut \xc3"} {
		if env, err := decode([]byte(frame)); err == nil || string(env.ID) != "7" {
			t.Errorf("decode(%s) = id %q, %v", frame, env.ID, err)
		}
	}
}

func TestMessageTypes(t *testing.T) {
	for typ := joinRoom; typ < messageTypes; typ++ {
		if got := messageTypeOf([]byte(typ.String())); got != typ {
			t.Errorf("%s is read as %s", typ, got)
		}
	}
	for _, name := range []string{"", "unknown", "Offer", "user_joined"} {
		if got := messageTypeOf([]byte(name)); got != unknownType {
			t.Errorf("%q is read as %s", name, got)
		}
	}
}

// reference is a message of the server in the field order of the contract, for encoding/json.
type reference struct {
	Type     string `json:"type"`
	ID       string `json:"id,omitempty"`
	UserID   string `json:"user_id,omitempty"`
	RoomID   string `json:"room_id,omitempty"`
	TargetID string `json:"target_id,omitempty"`
	Data     any    `json:"data,omitempty"`
}

func (m reference) encode(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// inString returns v as a JSON document in a string, the form of data on the wire.
func inString(t *testing.T, v any) string {
	t.Helper()
	doc, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// FuzzEncode compares what is appended with what encoding/json makes of the same message.
func FuzzEncode(f *testing.F) {
	for _, seed := range []string{"", "a", "1-2_3", `"\/`, "<b>&amp;</b>", "\x00\x01\b\t\n\v\f\r\x1f\x7f", "äé€😀", "\u2028\u2029\ufffd",
		"\xff", "a\xc3", "\xe2\x80", "\xed\xa0\x80x", strings.Repeat("long ", 200)} {
		f.Add(seed, "user-a", "room", 429)
		f.Add("id", seed, seed, -1)
	}
	f.Fuzz(func(t *testing.T, id, user, room string, code int) {
		type fault struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		type joined struct {
			UserID string   `json:"user_id"`
			Users  []string `json:"users"`
		}
		type left struct {
			Reason string `json:"reason"`
		}
		type object struct {
			Text string `json:"text"`
		}
		users := []string{user, id, "user-b"}
		for _, pair := range []struct{ got, want []byte }{
			{appendAck(nil, []byte(id)), reference{Type: "ack", ID: id}.encode(t)},
			{appendRoomFull(nil, []byte(id), room), reference{Type: "room_full", ID: id, RoomID: room}.encode(t)},
			{appendError(nil, []byte(id), code, room), reference{Type: "error", ID: id, Data: inString(t, fault{code, room})}.encode(t)},
			{appendUserJoined(nil, room, user, users), reference{Type: "user_joined", UserID: user, RoomID: room, Data: inString(t, joined{user, users})}.encode(t)},
			{appendUserLeft(nil, room, user, id), reference{Type: "user_left", UserID: user, RoomID: room, Data: inString(t, left{id})}.encode(t)},
			{objectFrame("stun_config", user, object{room}), reference{Type: "stun_config", UserID: user, Data: object{room}}.encode(t)},
			{appendRelay(nil, envelope{Type: answer, TargetID: []byte(id), Data: []byte(`[1, 2]`)}, user, room),
				relayReference(t, reference{Type: "answer", UserID: user, RoomID: room, TargetID: id}, `[1, 2]`)},
			{appendRelay(nil, envelope{Type: appMessage}, user, room), reference{Type: "message", UserID: user, RoomID: room}.encode(t)},
		} {
			if !bytes.Equal(pair.got, pair.want) {
				t.Errorf("got  %q\nwant %q", pair.got, pair.want)
			}
		}
	})
}

// relayReference returns a message with data that is not encoded anew.
func relayReference(t *testing.T, m reference, data string) []byte {
	t.Helper()
	frame := m.encode(t)
	return append(frame[:len(frame)-1], `,"data":`+data+`}`...)
}

func BenchmarkDecode(b *testing.B) {
	frame := []byte(`{"type":"offer","id":"123","target_id":"user-abcdefgh-abcd","data":"{\"sdp\":\"` + strings.Repeat(`a=rtpmap:111 opus/48000/2\\r\\n`, 30) + `\",\"type\":\"offer\"}"}`)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		env, err := decode(frame)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Discard.Write(env.Data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRelay(b *testing.B) {
	env := envelope{Type: offer, TargetID: []byte("user-abcdefgh-abcd"), Data: bytes.Repeat([]byte("1"), 1000)}
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = appendRelay(buf[:0], env, "user-abcdefgh-abce", "room-1")
	}
}
