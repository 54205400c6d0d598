package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// site is a node with the clients that tests need: it takes views as signaling does, and counts what
// its clients would see.
type site struct {
	*Redis
	t *testing.T

	mu       sync.Mutex
	views    map[string]View // rooms in which it has members
	local    map[string]int  // how many
	epochs   map[string]uint64
	joined   map[string]int // "room/id" → how often its clients saw that one join
	left     map[string]int // likewise
	reasons  map[string]Reason
	messages []Message
	lost     []string
	missed   []string // room/user
	died     []string
	absent   map[string]bool // "room/id" whose client has gone while the node knew nothing
}

func newSite(t *testing.T, cfg RedisConfig, id string) *site {
	t.Helper()
	s := emptySite(t)
	s.Redis = connect(t, cfg, id, s.events())
	return s
}

func emptySite(t *testing.T) *site {
	return &site{t: t, views: map[string]View{}, local: map[string]int{}, epochs: map[string]uint64{},
		joined: map[string]int{}, left: map[string]int{}, reasons: map[string]Reason{}}
}

func (s *site) events() Events {
	return Events{
		View: func(v View) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.local[v.Room] > 0 {
				s.applyLocked(v)
			}
		},
		Said: func(View) {},
		Message: func(m Message) {
			s.mu.Lock()
			defer s.mu.Unlock()
			m.Frame = slices.Clone(m.Frame)
			s.messages = append(s.messages, m)
		},
		Lost: func(node string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lost = append(s.lost, node)
		},
		Missed: func(room string, users []string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, user := range users {
				s.missed = append(s.missed, room+"/"+user)
			}
		},
		Slept:   func(time.Time) {},
		Present: func(room, id string) bool { return !s.isAbsent(room, id) },
		Died: func(node string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.died = append(s.died, node)
		},
	}
}

func (s *site) isAbsent(room, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.absent[room+"/"+id]
}

func (s *site) applyLocked(v View) {
	old := s.views[v.Room]
	if v.Version <= old.Version {
		return
	}
	s.views[v.Room] = v
	for _, m := range old.Members {
		if _, there := v.Find(m.ID); !there {
			key := v.Room + "/" + m.ID
			s.left[key]++
			for _, d := range v.Left {
				if d.ID == m.ID {
					s.reasons[key] = d.Reason
				}
			}
		}
	}
	for _, m := range v.Members {
		if _, there := old.Find(m.ID); !there {
			s.joined[v.Room+"/"+m.ID]++
		}
	}
}

// enter joins a client of this node.
func (s *site) enter(room, id string) error {
	return s.enterBy(room, id, uint64(time.Now().UnixNano())) // As signaling has it: later is newer, on any node.
}

// enterBy enters by a connection that may have been in the room before.
func (s *site) enterBy(room, id string, epoch uint64) error {
	s.mu.Lock()
	s.local[room]++
	s.epochs[room+"/"+id] = epoch
	who := Member{ID: id, Epoch: epoch}
	s.mu.Unlock()
	v, err := s.Join(s.t.Context(), room, who, 10)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.local[room]--
		return err
	}
	s.applyLocked(v)
	return nil
}

// exit takes a client out of its room.
func (s *site) exit(room, id string) error {
	s.mu.Lock()
	epoch := s.epochs[room+"/"+id]
	s.mu.Unlock()
	v, err := s.Leave(s.t.Context(), room, id, epoch, ReasonLeave)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local[room]--; s.local[room] == 0 {
		delete(s.views, room)
	} else if err == nil {
		s.applyLocked(v)
	}
	return err
}

// returned returns the members of this node that others had taken out, sorted.
func (s *site) returned() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.missed))
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// sees returns who is in the room for the clients of this node, sorted.
func (s *site) sees(room string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := ids(s.views[room])
	slices.Sort(out)
	return out
}

// view returns the room as the clients of this node see it.
func (s *site) view(room string) View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.views[room]
}

func (s *site) count(of map[string]int, key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return of[key]
}

func (s *site) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.messages {
		out = append(out, string(m.Frame))
	}
	return out
}

// crash ends the node without a word, as kill -9 does.
func (s *site) crash() {
	s.Redis.mu.Lock()
	s.closed = true
	sub := s.sub
	s.Redis.mu.Unlock()
	s.life.Lock()
	s.ended = true
	s.life.Unlock()
	s.cancel()
	_ = sub.Close()
	s.wg.Wait()
	_ = s.client.Close()
}

// agree waits until the clients of all nodes see the same members, and Redis holds them.
func agree(t *testing.T, room string, want []string, sites ...*site) {
	t.Helper()
	slices.Sort(want)
	deadline := time.Now().Add(patience)
	for {
		var wrong string
		for _, s := range sites {
			if got := s.sees(room); !slices.Equal(got, want) {
				wrong = fmt.Sprintf("%s sees %v", s.id, got)
			}
		}
		if got := stored(t, sites[0].Redis, room); !slices.Equal(got, want) {
			wrong = fmt.Sprintf("Redis holds %v", got)
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("room %s: want %v, but %s", room, want, wrong)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// stored returns the ids of the members that Redis holds, sorted.
func stored(t *testing.T, r *Redis, room string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fields, err := r.client.HGetAll(ctx, r.roomKey(room)).Result()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for field := range fields {
		if field != "v" {
			out = append(out, field[len("m:"):])
		}
	}
	slices.Sort(out)
	return out
}

// proxy is a TCP proxy in front of a Redis that a test can make slow, mute or dead.
type proxy struct {
	target string
	l      net.Listener
	delay  atomic.Int64
	frozen atomic.Bool
	mute   atomic.Bool // answers are lost
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	gone  bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, l: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.gone = true
		p.mu.Unlock()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.l.Addr().String() }

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) hold(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	if p.gone {
		_ = c.Close()
	}
}

func (p *proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) accept() {
	for {
		near, err := p.l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		p.hold(near)
		p.hold(far)
		p.wg.Go(func() { p.copy(far, near, false) })
		p.wg.Go(func() { p.copy(near, far, true) })
	}
}

// copy forwards, answers only after the delay, and nothing while frozen: that is lost, as in a
// network that drops packets until the connection gives up.
func (p *proxy) copy(to, from net.Conn, answers bool) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	chunks := make(chan chunk, 1024)
	p.wg.Go(func() {
		defer p.drop(to)
		for c := range chunks {
			<-time.After(time.Until(c.due))
			if _, err := to.Write(c.data); err != nil {
				p.drop(from)
			}
		}
	})
	defer close(chunks)
	defer p.drop(from)
	for {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if p.frozen.Load() || answers && p.mute.Load() {
			continue
		}
		due := time.Now()
		if answers {
			due = due.Add(time.Duration(p.delay.Load()))
		}
		chunks <- chunk{buffer[:n], due}
	}
}

// send sends a frame and reports whether Redis took it.
func (s *site) send(to *site, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return sendAndWait(ctx, s, []string{to.id}, Message{Room: "r", From: "a", To: "b", Frame: []byte(text)})
}

// chatter sends numbered messages until stopped, and returns those that were acknowledged.
func chatter(from, to *site, name string) (stop func() []string) {
	done := make(chan struct{})
	result := make(chan []string, 1)
	go func() {
		var acked []string
		for i := 0; ; i++ {
			select {
			case <-done:
				result <- acked
				return
			case <-time.After(time.Millisecond):
			}
			text := fmt.Sprintf("%s%d", name, i)
			err := from.send(to, text)
			if err == nil {
				acked = append(acked, text)
			} else if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrNoNode) {
				acked = append(acked, "unexpected: "+err.Error())
			}
		}
	}()
	return func() []string {
		close(done)
		return <-result
	}
}

// arrived checks that what was acknowledged arrived, once and in order. Others may have arrived, once.
func arrived(t *testing.T, acked []string, to *site) {
	t.Helper()
	eventually(t, "the last message arrives", func() bool {
		return len(acked) == 0 || slices.Contains(to.heard(), acked[len(acked)-1])
	})
	seen := map[string]bool{}
	var got []string
	for _, text := range to.heard() {
		if seen[text] {
			t.Errorf("%s arrived twice", text)
		}
		seen[text] = true
		if _, ok := slices.BinarySearchFunc(acked, text, byNumber); ok {
			got = append(got, text)
		}
	}
	if !slices.Equal(got, acked) {
		for _, text := range acked {
			if !seen[text] {
				t.Errorf("%s was acknowledged and is lost", text)
			}
		}
		t.Errorf("%d of %d arrived in order", len(got), len(acked))
	}
}

func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}
