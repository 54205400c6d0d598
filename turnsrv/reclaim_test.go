package turnsrv

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestMemoryIsGivenBackOnce follows allocations that come, go, and come again.
func TestMemoryIsGivenBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given := 0
		r := &reclaimer{give: func() { given++ }}
		rise := func(to int) {
			for n := range to {
				r.note(n + 1)
			}
		}
		fall := func(from int) {
			for n := from; n > 0; n-- {
				r.note(n - 1)
			}
		}
		for _, row := range []struct{ peak, want int }{{reclaimFrom - 1, 0}, {4 * reclaimFrom, 1}, {reclaimFrom / 2, 1}, {2 * reclaimFrom, 2}} {
			rise(row.peak)
			fall(row.peak)
			time.Sleep(2 * reclaimDelay)
			synctest.Wait()
			if given != row.want {
				t.Errorf("after %d allocations: given back %d times, want %d", row.peak, given, row.want)
			}
		}
		rise(reclaimFrom)
		fall(reclaimFrom)
		r.close()
		time.Sleep(2 * reclaimDelay)
		if given != 2 {
			t.Error("given back after the end")
		}
	})
}
