package signal

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestRemovedAreBounded removes more users than are remembered, and one who may come back for as long as that.
func TestRemovedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Minute
		var r removed
		r.add("user-x", life)
		time.Sleep(life)
		if r.add("user-y", life); !r.has("user-x") || r.has("user-z") {
			t.Errorf("x is removed: %v, and z: %v", r.has("user-x"), r.has("user-z"))
		}
		for i := range 5 * maxRemembered {
			r.add(fmt.Sprint("user-", i), life)
		}
		if n := len(r.users.young) + len(r.users.old); n > 2*maxRemembered {
			t.Errorf("%d are remembered", n)
		}
	})
}
