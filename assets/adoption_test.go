package assets_test

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

var callCount = flag.Int("calls", 2, "how many calls go on while their node is killed; 10 want a machine of their own")

// watch has a page keep book of what happens to its call from now on.
const watch = `(() => {
	const Connection = window.RTCPeerConnection;
	const book = window.book = { made: 0, restarts: 0, leavers: 0, resumes: 0, gaps: 0, lapsed: false, pause: 0 };
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
		const [{ framesDecoded = 0, connectionState = "none" } = {}] = await peers();
		book.lapsed ||= connectionState !== "connected";
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
	Lapsed                 bool    // the connection was something else than connected
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
// come back to another under their ids, and the same peer connections go on, by way of the relays of a third.
func TestCallsOutliveTheirNode(t *testing.T) {
	redis := redistest.Start(t)
	node := func(flags ...string) *systemtest.Node {
		n := systemtest.StartNode(t, append(flags, "--redis-url", redis.URL(), "--address-connections", "1000")...)
		t.Cleanup(n.Kill)
		n.Ready()
		return n
	}
	relay := node()
	first, second := node("--turn-enabled=false"), node("--turn-enabled=false")
	relayed := func(c pagetest.Connection) bool {
		return c.Relayed() && strings.Contains(c.RelayURL, ":"+strconv.Itoa(relay.Turn))
	}
	callsGoOn(t, first, second, "&transport=relay-udp", relayed, func(l *line) {
		first.Kill()
		l.redirect(second.HTTP)
	})
}

// TestCallsOutliveTheOnlyNode is the same with a node that starts again.
func TestCallsOutliveTheOnlyNode(t *testing.T) {
	only := systemtest.StartNode(t, "--redis-url", redistest.Start(t).URL(), "--address-connections", "1000")
	t.Cleanup(only.Kill)
	only.Ready()
	all := func(pagetest.Connection) bool { return true }
	callsGoOn(t, only, only, "", all, func(*line) {
		only.Kill()
		only.Start()
	})
}

// pair are the two pages of a call.
type pair [2]pagetest.Page

// startCall opens two pages that call each other, each at its site.
func startCall(t *testing.T, browser pagetest.Browser, room, more, a, b string) pair {
	t.Helper()
	link := "/?autojoin=1&media=synthetic&room=" + room + more
	return pair{browser.Open(t, "http://"+a+link), browser.Open(t, "http://"+b+link)}
}

// watch has the pages keep book once they see each other by connections of which that holds.
func (c pair) watch(that func(pagetest.Connection) bool) {
	for _, p := range c {
		p.Connected(1, that)
		pagetest.Evaluate[int](p, watch)
	}
}

// callsGoOn makes calls of pages that come to the first node, by way of a line, with others there and at the second one, and
// loses the first. The calls stay connected on the paths that they have, unless this machine is so busy that a call at a node that nobody
// touches does not.
func callsGoOn(t *testing.T, first, second *systemtest.Node, more string, that func(pagetest.Connection) bool, lose func(l *line)) {
	t.Helper()
	browser := pagetest.Start(t)
	l, untouched := startLine(t, first.HTTP), systemtest.StartNode(t)
	t.Cleanup(untouched.Kill)
	way := l.listener.Addr().String()
	control := startCall(t, browser, "control", "", untouched.HTTP, untouched.HTTP)
	var calls []pair
	affected, ids := map[pagetest.Page]bool{}, map[pagetest.Page]string{}
	for i := range *callCount {
		c := startCall(t, browser, fmt.Sprintf("call%d", i), more, way, []string{way, second.HTTP}[i%2])
		affected[c[0]], affected[c[1]] = true, i%2 == 0 || first == second
		calls = append(calls, c)
	}
	control.watch(func(pagetest.Connection) bool { return true })
	for _, c := range calls {
		c.watch(that)
		ids[c[0]], ids[c[1]] = c[0].User(), c[1].User()
	}
	lost := time.Now()
	lose(l)
	for p := range affected {
		if affected[p] {
			pagetest.Until(p, "the session is resumed", "window.book", func(b book) bool { return b.Resumes == 1 })
		}
	}
	t.Logf("all pages were back after %s", time.Since(lost).Round(time.Millisecond))
	for _, c := range calls {
		c[0].Connected(1, that)
		c[1].Connected(1, that)
		pagetest.Talk(c[0], c[1], "still the same call")
		pagetest.Talk(c[1], c[0], "indeed")
	}
	busy := false
	for _, p := range control {
		got := pagetest.Evaluate[book](p, "window.book")
		busy = busy || got.Lapsed
		t.Logf("an untouched call saw no frame for %.0f ms at most", got.Pause)
	}
	for p, id := range ids {
		got := pagetest.Evaluate[book](p, "window.book")
		want := book{Pause: got.Pause, Lapsed: got.Lapsed && busy}
		if affected[p] {
			want.Resumes, want.Gaps = 1, 1
		}
		if got != want || p.User() != id {
			t.Errorf("%s is %s and has seen %+v", id, p.User(), got)
		}
		t.Logf("%s saw no frame for %.0f ms at most", id, got.Pause)
	}
}
