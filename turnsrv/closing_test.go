package turnsrv

import (
	"fmt"
	"sync"
	"testing"

	"github.com/pion/stun/v2"
)

// TestCloseWhileAllocationsEnd closes a server while others end its allocations,
// which the engine learns of by way of the loops that are about to end.
func TestCloseWhileAllocationsEnd(t *testing.T) {
	for range 30 {
		s := startServer(t, loopbackConfig())
		const users = 8
		for i := range users {
			allocated(t, s, "udp", fmt.Sprint("user", i))
		}
		var ending sync.WaitGroup
		for i := range users {
			ending.Go(func() { s.KillUser(fmt.Sprint("user", i)) })
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		ending.Wait()
	}
}

// TestBurstOfRequestsIsAnswered sends more requests at once than a turn takes. Each
// has an answer of its own, whether it goes with others or not.
func TestBurstOfRequestsIsAnswered(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UnauthRate = 10_000
	s := startServer(t, cfg)
	c, err := newWireClient("udp", loopbackIPv4, addressOfServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }()
	waiting := map[[stun.TransactionIDSize]byte]bool{}
	for range 200 {
		m := wireRequest(stun.MethodBinding)
		waiting[m.TransactionID] = true
		if err := c.send(m.Raw); err != nil {
			t.Fatal(err)
		}
	}
	for len(waiting) > 0 {
		answer, err := c.next(wirePatience)
		if err != nil {
			t.Fatalf("%d requests are not answered: %v", len(waiting), err)
		}
		if err := wantSuccess(answer); err != nil || !waiting[answer.TransactionID] {
			t.Fatalf("an answer that nobody waits for: %v", err)
		}
		delete(waiting, answer.TransactionID)
	}
}
