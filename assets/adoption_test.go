package assets_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

var calls = flag.Int("calls", 2, "how many calls go on while their node is killed; 10 want a machine of their own")

// watch has a page keep book of what happens to its call from now on.
const watch = `(() => {
	const Connection = window.RTCPeerConnection;
	const book = window.book = { made: 0, restarts: 0, leavers: 0, resumes: 0, gaps: 0, pause: 0 };
	const ufrag = (description) => description?.sdp.match(/a=ice-ufrag:(.*)/)?.[1];
	for (const side of ["Local", "Remote"]) {
		const set = Connection.prototype["set" + side + "Description"];
		Connection.prototype["set" + side + "Description"] = async function (...description) {
			const before = ufrag(this["current" + side + "Description"]);
			await set.apply(this, description);
			book.restarts += before !== ufrag(this[side.toLowerCase() + "Description"]);
		};
	}
	window.RTCPeerConnection = class extends Connection {
		constructor(...all) { super(...all); book.made++; }
	};
	const { client, peers } = window.signalPage;
	client.addEventListener("userleft", () => book.leavers++);
	client.addEventListener("resumed", ({ detail }) => { book.resumes++; book.gaps += detail.gap; });
	let last = performance.now(), frames = 0;
	setInterval(async () => {
		const [{ framesDecoded = 0 } = {}] = await peers();
		if (framesDecoded === frames) return;
		const now = performance.now();
		if (frames) book.pause = Math.max(book.pause, now - last);
		[last, frames] = [now, framesDecoded];
	}, 50);
	return 0;
})()`

// book is what watch keeps.
type book struct {
	Made, Restarts         int // peer connections, and ICE credentials of those that there were
	Leavers, Resumes, Gaps int
	Pause                  float64 // the longest time without a frame, in ms
}

// startTwo runs two nodes of one deployment.
func startTwo(t *testing.T) []*systemtest.Node {
	t.Helper()
	redis := redistest.Start(t)
	var nodes []*systemtest.Node
	for range 2 {
		n := systemtest.StartNode(t, "--redis-url", redis.URL(), "--address-connections", "1000")
		t.Cleanup(n.Kill) // There is nobody to drain for.
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.Ready()
	}
	return nodes
}

// TestCallBeginsWhileANodeDies kills the node of one page while the two negotiate, so that some of what they
// say is lost: they come to a call all the same, under the ids that they had.
func TestCallBeginsWhileANodeDies(t *testing.T) {
	nodes, browser := startTwo(t), pagetest.Start(t)
	for round := range 3 {
		l := startLine(t, nodes[0].HTTP)
		link := fmt.Sprintf("/?autojoin=1&media=synthetic&room=begin%d", round)
		a := browser.Open(t, "http://"+l.listener.Addr().String()+link)
		before := a.User()
		b := browser.Open(t, nodes[1].URL+link[1:])
		b.User()
		nodes[0].Kill()
		l.redirect(nodes[1].HTTP)
		a.Connected(1)
		b.Connected(1)
		pagetest.Talk(a, b, "hello")
		if a.User() != before {
			t.Errorf("%s became %s", before, a.User())
		}
		nodes[0].Start()
		nodes[0].Ready()
	}
}

// TestCallsOutliveTheirNode kills the node to which one page of each call, or both, is connected: they
// come back to another under their ids, and the same peer connections go on, on the paths that they have.
func TestCallsOutliveTheirNode(t *testing.T) {
	slowdown, nodes, browser := systemtest.Slowdown(t), startTwo(t), pagetest.Start(t)
	l := startLine(t, nodes[0].HTTP)
	var there, all []pagetest.Page
	ids := map[pagetest.Page]string{}
	for i := range *calls {
		link := fmt.Sprintf("/?autojoin=1&media=synthetic&room=call%d", i)
		a := browser.Open(t, "http://"+l.listener.Addr().String()+link)
		b := browser.Open(t, []string{"http://" + l.listener.Addr().String(), nodes[1].URL[:len(nodes[1].URL)-1]}[i%2]+link)
		if there = append(there, a); i%2 == 0 {
			there = append(there, b)
		}
		all = append(all, a, b)
	}
	for _, p := range all {
		p.Connected(1)
		ids[p] = p.User()
		pagetest.Evaluate[int](p, watch)
	}
	nodes[0].Kill()
	killed := time.Now()
	l.redirect(nodes[1].HTTP)
	for _, p := range there {
		pagetest.Until(p, "the session is resumed", "window.book", func(b book) bool { return b.Resumes == 1 })
	}
	t.Logf("%d pages were back after %s", len(there), time.Since(killed).Round(time.Millisecond))
	for i := 0; i < len(all); i += 2 {
		a, b := all[i], all[i+1]
		a.Connected(1)
		b.Connected(1)
		pagetest.Talk(a, b, "still the same call")
		pagetest.Talk(b, a, "indeed")
	}
	most := float64(slowdown()) * 1000
	for _, p := range all {
		got := pagetest.Evaluate[book](p, "window.book")
		want := book{Pause: got.Pause}
		for _, q := range there {
			if p == q {
				want.Resumes, want.Gaps = 1, 1
			}
		}
		if got != want || p.User() != ids[p] {
			t.Errorf("%s is %s and has seen %+v", ids[p], p.User(), got)
		}
		if got.Pause > most {
			t.Errorf("%s saw no frame for %.0f ms, more than %.0f", ids[p], got.Pause, most)
		}
		t.Logf("%s saw no frame for %.0f ms at most", ids[p], got.Pause)
	}
}
