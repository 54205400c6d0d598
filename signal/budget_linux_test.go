package signal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

const (
	floodMemory = 96        // MiB that the node may have
	floodBytes  = 250 << 20 // what is kept for members who are away, if it may
)

// TestMemoryStaysWithinTheBudget has strangers, whom no limit of addresses holds, fill rooms with members who lose the network and send
// to them what is kept for who comes back. The process stays within its budget and a fifth, and gives back what it took. What
// a room beside it sees of that is only told.
func TestMemoryStaysWithinTheBudget(t *testing.T) {
	n := systemtest.StartNode(t, "--max-memory", fmt.Sprint(floodMemory), "--address-connections", "0", "--turn-enabled=false", "--resume-grace", "4")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	f := &memoryFlood{url: n.URL + "ws", frame: strings.Repeat("x", 64000)}
	done := make(chan struct{})
	var watch sync.WaitGroup
	var peak int64
	var latencies []time.Duration
	watch.Go(func() { peak = peakMemory(n, done) })
	watch.Go(func() { latencies = f.roomBeside(ctx, t, done) })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := 0; f.sent.Load() < floodBytes && ctx.Err() == nil; k++ {
				if err := f.fillRoom(ctx, fmt.Sprintf("flood-%d-%d", i, k)); err != nil {
					f.refused.Add(1) // Nobody new comes in when memory is tight.
				}
			}
		})
	}
	wg.Wait()
	close(done)
	watch.Wait()
	if f.sent.Load() < floodBytes {
		t.Fatalf("%d MiB were sent, %d rooms could not be filled", f.sent.Load()>>20, f.refused.Load())
	}
	if most := int64(floodMemory) << 20 * 6 / 5; peak > most {
		t.Errorf("the process took %d MiB, its budget and a fifth are %d", peak>>20, most>>20)
	}
	slices.Sort(latencies)
	t.Logf("%d MiB sent, %d rooms refused; the process took %d MiB; a room beside it: %d messages, p99 %v",
		f.sent.Load()>>20, f.refused.Load(), peak>>20, len(latencies), latencies[len(latencies)*99/100])
	eventually(t, "memory is given back", func() bool { return residentMemory(n) < floodMemory<<20/2 })
}

// memoryFlood sends to members who are away.
type memoryFlood struct {
	url, frame    string
	sent, refused atomic.Int64
}

// fillRoom has nine members lose the network, and a tenth send each of them nearly as much as is kept.
func (f *memoryFlood) fillRoom(ctx context.Context, room string) error {
	var away []string
	for range 9 {
		c, user, err := f.enter(ctx, room)
		if err != nil {
			return err
		}
		away = append(away, user)
		c.Cut()
		_ = c.Close()
	}
	c, _, err := f.enter(ctx, room)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for i := range 15 * len(away) {
		if err := c.SendFrame(fmt.Appendf(nil, `{"type":"message","target_id":%q,"data":%q}`, away[i%len(away)], f.frame)); err != nil {
			return err
		}
		f.sent.Add(int64(len(f.frame)))
	}
	c.Cut() // Who says goodbye would have to read first what came of it.
	return nil
}

func (f *memoryFlood) enter(ctx context.Context, room string) (*client.Client, string, error) {
	c, err := client.Dial(ctx, f.url, nil)
	if err != nil {
		return nil, "", err
	}
	hello, err := c.Next(ctx)
	for err = errors.Join(err, c.Join(room)); err == nil; {
		var m client.Message
		if m, err = c.Next(ctx); m.Type == "user_joined" && m.UserID == hello.UserID {
			return c, hello.UserID, nil
		}
	}
	_ = c.Close()
	return nil, "", err
}

// roomBeside returns how long messages of two members took until done is closed.
func (f *memoryFlood) roomBeside(ctx context.Context, t *testing.T, done <-chan struct{}) (took []time.Duration) {
	a, _, err := f.enter(ctx, "beside")
	if err != nil {
		t.Error(err)
		return []time.Duration{0}
	}
	defer func() { _ = a.Close() }()
	b, _, err := f.enter(ctx, "beside")
	if err != nil {
		t.Error(err)
		return []time.Duration{0}
	}
	defer func() { _ = b.Close() }()
	for {
		select {
		case <-done:
			return took
		case <-time.After(20 * time.Millisecond):
		}
		begin := time.Now()
		if err := a.SendFrame([]byte(`{"type":"message","data":1}`)); err != nil {
			t.Errorf("a member beside the flood: %v", err)
			return append(took, 0)
		}
		for m, err := b.Next(ctx); m.Type != "message"; m, err = b.Next(ctx) {
			if err != nil {
				t.Errorf("a member beside the flood: %v", err)
				return append(took, 0)
			}
		}
		took = append(took, time.Since(begin))
	}
}

// peakMemory looks at the memory of the process until done is closed.
func peakMemory(n *systemtest.Node, done <-chan struct{}) (peak int64) {
	for {
		select {
		case <-done:
			return max(peak, residentMemory(n))
		case <-time.After(10 * time.Millisecond):
			peak = max(peak, residentMemory(n))
		}
	}
}

// residentMemory returns how much memory of the process is in RAM, in bytes.
func residentMemory(n *systemtest.Node) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.PID()))
	var size, resident int64
	_, _ = fmt.Sscan(string(text), &size, &resident)
	return resident * int64(os.Getpagesize())
}
