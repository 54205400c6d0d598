package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestPagesLeaveNothingOut has a node with rooms so large that it answers with few at a time, beside one that has told of all its own: read page
// by page, every room is there once.
func TestPagesLeaveNothingOut(t *testing.T) {
	members := slices.Repeat([]member{{strings.Repeat("u", 60), "n"}}, 500)
	known := map[string][]room{}
	var want []string
	for i := range 40 {
		id := fmt.Sprintf("room-%02d", i)
		want = append(want, id)
		known["large"] = append(known["large"], room{ID: id, Version: 2, Members: members})
		known["small"] = append(known["small"], room{ID: id, Version: 1, Members: []member{}})
	}
	var got []string
	pages := 0
	for after := ""; ; pages++ {
		q := listAsked{After: after, Limit: 30}
		all := answers[listTold[room]]{of: map[string]listTold[room]{}}
		for node, rooms := range known {
			all.of[node] = pick(q, rooms, room.name, func(room) bool { return true }, func(r room) room { return r })
		}
		l := page(q, all)
		for _, r := range l.Items {
			if got = append(got, r.ID); r.Version != 2 {
				t.Errorf("%s is an old one", r.ID)
			}
		}
		if after = l.Next; after == "" {
			break
		}
	}
	if !slices.Equal(got, want) || pages < 3 {
		t.Errorf("%d pages have %v", pages+1, got)
	}
}
