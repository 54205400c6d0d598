package signal

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

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
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		env, err := decode(frame)
		var ce *clientError
		if err != nil && (!errors.As(err, &ce) || ce.code != codeBadRequest) {
			t.Fatalf("decode failed with %v", err)
		}
		if utf8.RuneCountInString(env.ID) > maxIDLen {
			t.Fatalf("id of %d characters passed", len(env.ID))
		}
		if err != nil {
			return
		}
		if room, err := roomID(env.Data); err == nil && (room == "" || len(room) > maxRoomLen || strings.ContainsAny(room, " \x00/\"")) {
			t.Fatalf("room id %q passed", room)
		}
		relayed := relayFrame(env, "user-a", "r")
		var back struct {
			UserID string `json:"user_id"`
			Data   json.RawMessage
		}
		if err := json.Unmarshal(relayed, &back); err != nil {
			t.Fatalf("relayed frame %q: %v", relayed, err)
		}
		if back.UserID != "user-a" || string(back.Data) != string(env.Data) {
			t.Fatalf("relayed frame %q of %q", relayed, frame)
		}
	})
}
