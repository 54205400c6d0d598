package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// openers is how many clients are set up at once.
const openers = 32

// control sets options of a socket before it is connected.
type control = func(network, address string, c syscall.RawConn) error

// newRoomNames returns names that no other run has: the prefix of each is random.
func newRoomNames() func(number int) string {
	prefix := "bench-" + strings.ToLower(rand.Text()[:10])
	return func(number int) string { return fmt.Sprintf("%s-%d", prefix, number) }
}

// openPairs sets up clients of which every two send to each other: number 0 and 1, and so on. With
// an echo each sends to itself. Control is for the second of each pair.
func openPairs(ctx context.Context, t *target, count int, second control) ([]*socket, error) {
	if err := checkDescriptors(count); err != nil {
		return nil, err
	}
	roomOf := newRoomNames()
	sockets := make([]*socket, count)
	err := atOnce(ctx, (count+1)/2, func(pair int) error {
		first := 2 * pair
		for i := first; i < min(first+2, count); i++ {
			var options control
			if i > first {
				options = second
			}
			s, err := enter(ctx, t, roomOf(pair), roomOf(pair)+"-"+string(rune('a'+i-first)), options)
			if err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			sockets[i] = s
		}
		introduce(sockets[first:min(first+2, count)])
		return nil
	})
	if err != nil {
		hangUp(sockets)
		return nil, err
	}
	return sockets, nil
}

// introduce tells clients whom they send to.
func introduce(pair []*socket) {
	for i, s := range pair {
		if len(pair) == 2 && !s.dialect.alone {
			s.peer = pair[1-i].user
		} else {
			s.peer = s.user
		}
	}
}

// enter opens one client, in a room if there are any. It is called id where the client chooses that.
func enter(ctx context.Context, t *target, room, id string, options control) (*socket, error) {
	s, err := dial(ctx, t.Address, t.dialect.path(id), options)
	if err != nil {
		return nil, err
	}
	s.dialect, s.user = t.dialect, id
	switch {
	case t.dialect.rooms:
		err = s.join(room)
	case t.dialect.beat != "":
		_, err = s.await("OPEN", func(m *message) bool { return string(m.kind) == "OPEN" })
	}
	if err != nil {
		_ = s.conn.Close()
		return nil, err
	}
	return s, nil
}

func hangUp(sockets []*socket) {
	for _, s := range sockets {
		if s != nil && s.conn != nil {
			_ = s.conn.Close()
		}
	}
}

// atOnce calls do with the numbers up to count, some of them at a time, until one fails.
func atOnce(ctx context.Context, count int, do func(number int) error) error {
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
		next.Store(int64(count))
	}
	var running sync.WaitGroup
	for range min(openers, count) {
		running.Go(func() {
			for ctx.Err() == nil {
				number := int(next.Add(1)) - 1
				if number >= count {
					return
				}
				if err := do(number); err != nil {
					fail(err)
				}
			}
		})
	}
	running.Wait()
	return errors.Join(failed, ctx.Err())
}

// openLoop returns a loop of clients that have been set up in pairs.
func openLoop(ctx context.Context, t *target, count int, second control) (*loop, error) {
	sockets, err := openPairs(ctx, t, count, second)
	if err != nil {
		return nil, err
	}
	return newLoopOf(sockets)
}

func newLoopOf(sockets []*socket) (*loop, error) {
	l, err := newLoop()
	if err == nil {
		err = l.add(sockets...)
	}
	if err != nil {
		hangUp(sockets)
		if l != nil {
			l.close()
		}
		return nil, err
	}
	return l, nil
}
