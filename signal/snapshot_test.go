package signal

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"cline-meet/signal/state"
)

// TestSnapshotCarriesAParticipant packs a participant at one node and unpacks it at another: what its
// client gets there is what it would have got here.
func TestSnapshotCarriesAParticipant(t *testing.T) {
	here, there := socketless(t, &slowState{}), socketless(t, &slowState{})
	p := here.place("r", member("a", "near", 1))
	p.room.apply(view(1, p.asMember()))
	p.send([]byte("got"))
	p.send([]byte("missed"))
	here.onMessage(state.Message{Node: "far", Room: "r", From: "x", To: "a", Frame: []byte("early")})
	got := uint64(2) // Its own user_joined was the first.
	snap, move, err := here.pack(p, "there", &got)
	if err != nil || here.participant("a") != nil || here.room("r") != nil || here.moves.of("a") != move {
		t.Fatalf("%v is left here, or %v", here.rooms, err)
	}
	text, err := json.Marshal(snap)
	if err == nil {
		snap = snapshot{}
		err = json.Unmarshal(text, &snap)
	}
	if err != nil {
		t.Fatal(err)
	}
	q, l := there.unpack(snap, resumeToken{User: "a", Epoch: 1})
	if q.epoch <= p.epoch || q.sent != 3 || len(q.kept.copies()) != 1 || string(q.kept.copies()[0]) != "missed" {
		t.Errorf("%+v was unpacked of %s", q, text)
	}
	q.conn = deaf("a", 0).conn
	r := there.addLocal("r", l)
	r.apply(view(2, q.member(), member("x", "far", 1)))
	if got, want := heard(q), []string{string(userJoinedFrame("r", "x", []string{"a", "x"})), "early"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// TestSnapshotForgetsNothing fails when a participant or a local member has got a field of which nobody
// said whether it moves with the snapshot.
func TestSnapshotForgetsNothing(t *testing.T) {
	known := map[string]string{
		"participant.srv": "here", "participant.user": "token", "participant.epoch": "anew", "participant.greetings": "of an epoch", "participant.proved": "of an epoch",
		"participant.log": "here", "participant.room": "moves", "participant.mu": "here", "participant.owner": "here",
		"participant.conn": "here", "participant.wanted": "here", "participant.grace": "here", "participant.until": "here",
		"participant.over": "never packed", "participant.kicked": "never packed", "participant.addr": "of the conn", "participant.secure": "of the conn", "participant.absent": "here", "participant.adopted": "moves", "participant.gap": "moves", "participant.sent": "moves", "participant.kept": "moves",
		"participant.flying": "landed before", "participant.heard": "moves", "participant.said": "moves",
		"participant.asked": "here", "participant.iceRefresh": "with the greeting", "participant.former": "moves", "participant.home": "of the conn", "participant.holding": "anew", "participant.account": "anew", "participant.place": "of memory", "participant.relays": "with the greeting",
		"participant.claims": "of the connection", "participant.warned": "of the connection",
		"localMember.room": "moves", "localMember.participant": "here", "localMember.told": "moves", "localMember.early": "moves", "localMember.earlyBytes": "of early", "localMember.voices": "moves",
		"localMember.stays": "moves", "localMember.unnamed": "empty by then", "localMember.marks": "moves",
		"localMember.heldBytes": "of marks", "localMember.awaiting": "here", "localMember.owing": "moves", "localMember.left": "moves", "localMember.waits": "here", "localMember.leaving": "never packed", "localMember.doubtful": "told to the new node", "localMember.move": "settled before", "localMember.joining": "never packed",
	}
	for _, kind := range []reflect.Type{reflect.TypeFor[participant](), reflect.TypeFor[localMember]()} {
		for i := range kind.NumField() {
			if name := kind.Name() + "." + kind.Field(i).Name; known[name] == "" {
				t.Errorf("does %s move with the snapshot? See pack and unpack, and say so here", name)
			}
		}
	}
}
