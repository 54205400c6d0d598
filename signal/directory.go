package signal

import (
	"slices"
	"sync/atomic"
	"time"

	"cline-meet/signal/state"
)

// DirectoryConfig is what a Directory needs of the node.
type DirectoryConfig struct {
	// State is where nodes announce themselves.
	State announcer
	// Beat is the time between two announcements.
	Beat time.Duration
	// Own names this node's ICE servers for a user who reached it by host; the TURN server, which has a
	// user name, is the last one.
	Own func(host, user string) ICEConfig
	// At mints credentials for a TURN server of the cluster at other URLs. It reports false without URLs
	// or a secret.
	At func(urls []string, user string) (ICEServer, bool)
	// Relaying says that this node runs a TURN server.
	Relaying bool
	// External says that Own names a TURN server which is no node's, and clients need no other.
	External bool
	// Load is the node's number of connections and allocations.
	Load func() int
	// Lost is called when a TURN server of another node, which clients may relay through, is about to end.
	Lost func()
}

// announcer is what the directory asks of the shared state.
type announcer interface {
	Announce(state.NodeInfo)
	Nodes() []state.NodeInfo
}

// A Directory is a node among the others: it tells them what it has, and names their TURN servers to
// clients beside its own, for when this one fails. Any goroutine may use it.
type Directory struct {
	cfg      DirectoryConfig
	draining atomic.Bool
}

// NewDirectory returns the directory of a node that is not announced yet.
func NewDirectory(cfg DirectoryConfig) *Directory { return &Directory{cfg: cfg} }

// ICE names the ICE servers for a user who reached this node by host: this node's, and the TURN server
// of another. A node that drains names the other first, and one without TURN those of two others.
func (d *Directory) ICE(host, user string) ICEConfig {
	out := d.cfg.Own(host, user)
	switch {
	case d.cfg.External:
		return out
	case !d.cfg.Relaying:
		d.addTwo(&out, user)
		return out
	case len(out.Servers) == 0:
		return out
	}
	own := len(out.Servers) - 1
	second := out.Servers[own] // The secret is the cluster's, so its credentials are good there too.
	node := d.leastLoaded(second.URLs)
	if len(node.TURN) == 0 {
		return out
	}
	second.URLs, out.Nodes = node.TURN, []string{node.ID}
	out.Servers = append(out.Servers, second)
	if d.draining.Load() {
		out.Servers[own], out.Servers[own+1] = second, out.Servers[own]
	}
	return out
}

// addTwo adds the TURN servers of the two nodes with the least load.
func (d *Directory) addTwo(out *ICEConfig, user string) {
	var before []string
	for range 2 {
		node := d.leastLoaded(before)
		if server, ok := d.cfg.At(node.TURN, user); ok {
			out.Servers, out.Nodes = append(out.Servers, server), append(out.Nodes, node.ID)
		}
		before = node.TURN
	}
}

// leastLoaded returns the node with the least load that has other TURN URLs than these and does
// not drain, one without any if there is no such.
func (d *Directory) leastLoaded(than []string) state.NodeInfo {
	nodes := slices.DeleteFunc(d.cfg.State.Nodes(), func(i state.NodeInfo) bool {
		return len(i.TURN) == 0 || i.Draining || slices.Contains(than, i.TURN[0])
	})
	if len(nodes) == 0 {
		return state.NodeInfo{}
	}
	return slices.MinFunc(nodes, func(a, b state.NodeInfo) int { return a.Load - b.Load })
}

// Announce tells the other nodes about this one.
func (d *Directory) Announce() {
	d.cfg.State.Announce(state.NodeInfo{Load: d.cfg.Load(), Draining: d.draining.Load(), TURN: d.URLs()})
}

// URLs returns those of the node's TURN server, none when it has no public ones.
func (d *Directory) URLs() (urls []string) {
	if !d.cfg.Relaying || d.cfg.External {
		return nil
	}
	for _, s := range d.cfg.Own("", "").Servers {
		if s.Username != "" {
			urls = append(urls, s.URLs...)
		}
	}
	return urls
}

// Drain tells the other nodes that this one is about to go away, and names their TURN servers first from
// now on.
func (d *Directory) Drain() {
	d.draining.Store(true)
	d.Announce()
}

// KeepAnnouncing announces the node with every beat until the returned function is called.
func (d *Directory) KeepAnnouncing() (stop func()) {
	done, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		beat := time.NewTicker(d.cfg.Beat)
		defer beat.Stop()
		known := d.relays()
		for {
			select {
			case <-end:
				return
			case <-beat.C:
			}
			d.Announce()
			now := d.relays()
			if slices.ContainsFunc(known, func(url string) bool { return !slices.Contains(now, url) }) {
				d.cfg.Lost()
			}
			known = now
		}
	}()
	return func() {
		close(end)
		<-done
	}
}

// relays returns the first URLs of the other nodes' TURN servers that last.
func (d *Directory) relays() []string {
	var urls []string
	for _, info := range d.cfg.State.Nodes() {
		if len(info.TURN) > 0 && !info.Draining {
			urls = append(urls, info.TURN[0])
		}
	}
	return urls
}
