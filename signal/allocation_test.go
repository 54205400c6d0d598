//go:build !race

package signal

import (
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

// These tests count allocations, which the race detector makes too: it drops at random what pools hold.

func TestDecodingAllocatesNothing(t *testing.T) {
	offer := []byte(`{"type":"offer","id":"123","target_id":"user-abcdefgh-abcd","data":"{\"sdp\":\"` + strings.Repeat(`a=b\\r\\n`, 100) + `\",\"type\":\"offer\"}"}`)
	plain := []byte(`{"type":"message","data":{"a":[1,2,3],"b":{"c":null}}}`)
	for _, frame := range [][]byte{offer, plain} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := decode(frame); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("decoding %.40q allocates %v times", frame, n)
		}
	}
}

func TestRelayingAllocatesNothing(t *testing.T) {
	for _, id := range []string{"", `"id":"100000",`} {
		p := newPair(t)
		before := p.b.sent
		if n := p.countAllocations(opText, testOffer(id)); n > 0 {
			t.Errorf("an offer with %q allocates %v times", id, n)
		}
		if got := p.b.sent - before; got != 2001 { // AllocsPerRun runs once more.
			t.Errorf("%d of 2001 offers were relayed", got)
		}
	}
}

// TestRefusedMessageAllocatesNothing sends more than the rate allows.
func TestRefusedMessageAllocatesNothing(t *testing.T) {
	for _, frame := range []string{
		string(testOffer("")), string(testOffer(`"id":"123",`)), `{"type":"join_room","data":{"room_id":"r"},"id":"1"}`, `{"id":"1"}`,
	} {
		p := newPair(t)
		p.a.conn.rate = rate.NewLimiter(1e-9, 1)
		p.a.conn.rate.Allow()
		before := p.a.sent
		if n := p.countAllocations(opText, []byte(frame)); n > 0 {
			t.Errorf("%.30s allocates %v times", frame, n)
		}
		if got := p.a.sent - before; got != 2001 {
			t.Errorf("%d of 2001 messages were answered", got)
		}
	}
}
