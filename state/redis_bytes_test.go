package state

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

// TestBytesOfMember measures what a member costs in Redis, its share of the room and of the index of its node
// included, with names as long as they are in practice, and that a room stays in the compact form.
func TestBytesOfMember(t *testing.T) {
	redis := redistest.Start(t)
	cfg := calm(single(redis))
	var nodes []*Redis
	for range 3 {
		nodes = append(nodes, connect(t, cfg, NewNodeID(), new(ear).events()))
	}
	const rooms = 300
	for i := range rooms {
		room := fmt.Sprintf("room-%08d", i)
		for j := range 2 {
			who := Member{ID: "user-" + rand.Text()[:8], Epoch: uint64(time.Now().UnixNano())}
			if _, err := nodes[(i+j)%3].Join(t.Context(), room, who, 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	bytes := 0
	for _, key := range keys(redis) {
		n, err := strconv.Atoi(redis.Do("MEMORY", "USAGE", key))
		if err != nil {
			t.Fatal(err)
		}
		bytes += n
	}
	for _, n := range nodes {
		for room := range n.rooms {
			if encoding := redis.Do("OBJECT", "ENCODING", n.roomKey(room)); encoding != "listpack" && encoding != "ziplist" {
				t.Fatalf("a room is a %s", encoding)
			}
		}
	}
	t.Logf("%d bytes a member", bytes/(2*rooms))
	if bytes/(2*rooms) > 170 {
		t.Errorf("%d bytes a member, want 170 at most", bytes/(2*rooms))
	}
}
