package signal

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// cluster is a shared state and the nodes in it that a directory of the node "n0" sees.
type cluster struct {
	shared *state.Memory
	own    *state.MemoryNode
}

func newCluster() *cluster {
	shared := state.NewMemory()
	return &cluster{shared, joined(shared, "n0")}
}

func joined(shared *state.Memory, id string) *state.MemoryNode {
	n := shared.Node(id)
	n.Subscribe(state.Events{View: func(state.View) {}, Message: func(state.Message) {}, Lost: func(string) {}, Died: func(string) {}, Slept: func(time.Time) {}, Present: func(string, string) bool { return true }})
	return n
}

// add lets another node announce a TURN server.
func (c *cluster) add(id, url string, load int) *state.MemoryNode {
	n := joined(c.shared, id)
	n.Announce(state.NodeInfo{TURN: []string{url}, Load: load})
	return n
}

// directory is that of a node which has a TURN server turn:own.
func (c *cluster) directory(change func(*DirectoryConfig)) *Directory {
	cfg := DirectoryConfig{
		State: c.own, Beat: time.Second, Relaying: true,
		Own: func(host, user string) ICEConfig {
			return ICEConfig{TTL: time.Hour, Servers: []ICEServer{
				{URLs: []string{"stun:" + host}}, {URLs: []string{"turn:own"}, Username: "1:" + user, Credential: "c"},
			}}
		},
		At: func(urls []string, user string) (ICEServer, bool) {
			return ICEServer{URLs: urls, Username: "1:" + user, Credential: "c"}, len(urls) > 0
		},
		Load: func() int { return 7 },
		Lost: func() {},
	}
	change(&cfg)
	return NewDirectory(cfg)
}

func as(*DirectoryConfig) {}

// urls are the first URLs of the servers for a user.
func urls(d *Directory) []string {
	var out []string
	for _, s := range d.ICE("host", "bob").Servers {
		out = append(out, s.URLs[0])
	}
	return out
}

func TestDirectoryNamesTheLeastLoadedBesideItsOwn(t *testing.T) {
	c := newCluster()
	d := c.directory(as)
	if got := urls(d); !slices.Equal(got, []string{"stun:host", "turn:own"}) {
		t.Errorf("alone: %v", got)
	}
	c.add("n1", "turn:busy", 9)
	idle := c.add("n2", "turn:idle", 1)
	c.add("n3", "turn:own", 0) // Its clients see the same host.
	want := []string{"stun:host", "turn:own", "turn:idle"}
	if got := urls(d); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if last := d.ICE("host", "bob").Servers[2]; last.Username != "1:bob" || last.Credential != "c" {
		t.Errorf("credentials at the other node: %+v", last)
	}
	idle.Announce(state.NodeInfo{TURN: []string{"turn:idle"}, Draining: true})
	if got := urls(d); !slices.Equal(got, []string{"stun:host", "turn:own", "turn:busy"}) {
		t.Errorf("beside one that drains: %v", got)
	}
	d.Drain()
	if got := urls(d); !slices.Equal(got, []string{"stun:host", "turn:busy", "turn:own"}) {
		t.Errorf("draining: %v", got)
	}
}

func TestDirectoryWithoutATURNServerOfItsOwn(t *testing.T) {
	c := newCluster()
	c.add("n1", "turn:a", 2)
	c.add("n2", "turn:b", 1)
	c.add("n3", "turn:c", 3)
	none := c.directory(func(cfg *DirectoryConfig) {
		cfg.Relaying, cfg.Own = false, func(string, string) ICEConfig { return ICEConfig{} }
	})
	if got := urls(none); !slices.Equal(got, []string{"turn:b", "turn:a"}) {
		t.Errorf("signaling only: %v", got)
	}
	external := c.directory(func(cfg *DirectoryConfig) { cfg.External = true })
	if got := urls(external); !slices.Equal(got, []string{"stun:host", "turn:own"}) {
		t.Errorf("a TURN server that is no node's: %v", got)
	}
}

func TestDirectoryAnnounces(t *testing.T) {
	c := newCluster()
	watcher := joined(c.shared, "n1")
	for _, tt := range []struct {
		change func(*DirectoryConfig)
		turn   []string
	}{
		{as, []string{"turn:own"}},
		{func(cfg *DirectoryConfig) { cfg.External = true }, nil},
		{func(cfg *DirectoryConfig) { cfg.Relaying = false }, nil},
	} {
		d := c.directory(tt.change)
		d.Announce()
		if info := watcher.Nodes()[0]; !slices.Equal(info.TURN, tt.turn) || info.Load != 7 || info.Draining {
			t.Errorf("announced %+v, want %v", info, tt.turn)
		}
		d.Drain()
		if info := watcher.Nodes()[0]; !info.Draining {
			t.Errorf("draining: %+v", info)
		}
	}
}

// TestDirectoryHearsOfRelaysThatEnd has another node drain, then a third one leave, on the clock of a
// bubble.
func TestDirectoryHearsOfRelaysThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		draining, leaving := c.add("n1", "turn:a", 0), c.add("n2", "turn:b", 0)
		var lost atomic.Int64
		d := c.directory(func(cfg *DirectoryConfig) { cfg.Lost = func() { lost.Add(1) } })
		stop := d.KeepAnnouncing()
		defer stop()
		beats := func(want int64) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if n := lost.Load(); n != want {
				t.Errorf("heard of %d relays that end, want %d", n, want)
			}
		}
		beats(0)
		if nodes := draining.Nodes(); !slices.ContainsFunc(nodes, func(i state.NodeInfo) bool { return i.ID == "n0" && i.Load == 7 }) {
			t.Errorf("not announced: %+v", nodes)
		}
		draining.Announce(state.NodeInfo{TURN: []string{"turn:a"}, Draining: true})
		beats(1)
		if err := leaving.Close(t.Context()); err != nil {
			t.Error(err)
		}
		beats(2)
		c.add("n3", "turn:c", 0)
		beats(2)
	})
}
