package assets_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// noticing counts in window.seen what a page is told of losses, by the name of the event, and keeps the lines that it hears.
const noticing = `(() => {
	const { client } = window.signalPage;
	window.seen = {};
	for (const name of ["retry", "resumed", "abandoned", "closed", "left", "userleft", "error"])
		client.addEventListener(name, () => (window.seen[name] = (window.seen[name] ?? 0) + 1));
	window.lines = [];
	client.addEventListener("message", ({ detail }) => window.lines.push(detail.data));
	return 0;
})()`

// sayAll says lines by the client as fast as a program can, and returns how many of them were not acknowledged.
const sayAll = `(async () => {
	const { client } = window.signalPage;
	const said = await Promise.allSettled(Array.from({ length: %d }, (_, i) => client.sendMessage(i)));
	return said.filter(({ status }) => status !== "fulfilled").length;
})()`

// ignoreLimits sends frames by the client's WebSocket and past the client, each with an id, and counts the answers by
// their type and code.
const ignoreLimits = `(async () => {
	const { client } = window.signalPage;
	const { send } = WebSocket.prototype;
	const socket = await new Promise((resolve) => {
		WebSocket.prototype.send = function (frame) {
			WebSocket.prototype.send = send;
			send.call(this, frame);
			resolve(this);
		};
		client.refreshIce();
	});
	const ids = new Set();
	const counts = {};
	const say = (fields) => {
		const id = "past-" + ids.size;
		ids.add(id);
		socket.send(JSON.stringify({ id, ...fields }));
	};
	const answered = new Promise((resolve) => {
		socket.addEventListener("message", ({ data }) => {
			const { type, id, data: text } = JSON.parse(data);
			if (!ids.delete(id)) return;
			const kind = type === "error" ? JSON.parse(text).code : type;
			counts[kind] = (counts[kind] ?? 0) + 1;
			if (ids.size === 0) resolve();
		});
		socket.addEventListener("close", resolve);
	});
	const other = client.users.find((user) => user !== client.userId);
	const sdp = "v=0\r\n" + "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n".repeat(1600);
	say({ type: "message", data: "x".repeat(70 << 10) });
	say({ type: "offer", target_id: other, data: JSON.stringify({ sdp, type: "offer" }) });
	for (let i = 0; i < 500; i++) say({ type: "message", data: "past " + i });
	await answered;
	return counts;
})()`

// TestCallDoesNotNoticeLimits has one of two people say what is too large and too fast, by a client that knows the limits and past
// it: that is refused, and neither the sessions nor the call nor the other one notice.
func TestCallDoesNotNoticeLimits(t *testing.T) {
	const lines = 500
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	a, b := call(t, browser, node.URL+"?autojoin=1&media=synthetic&room=limits", "all")
	both := []pagetest.Page{a, b}
	ids := []string{a.User(), b.User()}
	for _, p := range both {
		pagetest.Evaluate[int](p, noticing)
	}

	refusals := pagetest.Evaluate[[]string](a, `(async () => {
		const { client } = window.signalPage;
		const [other] = client.users.filter((user) => user !== client.userId);
		const sdp = "v=0\r\n" + "a=x\r\n".repeat(16 << 10);
		const answers = [client.sendMessage("x".repeat(70 << 10)), client.sendMessage("é".repeat(33 << 10)),
			client.sendDescription(other, { type: "offer", sdp })];
		return (await Promise.allSettled(answers)).map(({ reason }) => reason?.code + " " + reason?.message);
	})()`)
	for _, text := range refusals {
		if !strings.HasPrefix(text, "413 The message is too large") || !strings.HasSuffix(text, "the server takes 65536.") {
			t.Errorf("a message that is too large was refused with %q", text)
		}
	}
	if n := pagetest.Evaluate[int](a, fmt.Sprintf(sayAll, lines)); n != 0 {
		t.Errorf("%d of %d lines were not acknowledged", n, lines)
	}
	want := make([]int, lines)
	for i := range want {
		want[i] = i
	}
	pagetest.Until(b, "all lines are heard once and in order", "window.lines", func(got []int) bool { return slices.Equal(got, want) })

	counts := pagetest.Evaluate[map[string]int](a, ignoreLimits)
	if counts["413"] != 2 || counts["429"] == 0 || counts["ack"] == 0 || counts["429"]+counts["ack"] != 500 || len(counts) != 3 {
		t.Errorf("past the client the answers were %v", counts)
	}
	pagetest.Until(b, "what was acknowledged is heard", "window.lines.length", func(n int) bool { return n == lines+counts["ack"] })

	for i, p := range both {
		p.Connected(1)
		if seen := pagetest.Evaluate[map[string]int](p, "window.seen"); len(seen) > 0 || p.User() != ids[i] {
			t.Errorf("%s, now %s, noticed %v", ids[i], p.User(), seen)
		}
	}
	pagetest.Talk(a, b, "the same call")
}

// quietCall makes a call of a client of its own, without any media, and joins a room.
const quietCall = `(async () => {
	const { SignalClient, Call } = await import("/signal.js");
	const client = new SignalClient();
	window.quiet = new Call(client);
	window.quiet.client = client;
	window.refusals = [];
	window.quiet.addEventListener("error", ({ detail: { error } }) => window.refusals.push(error.code ?? error.message));
	await client.join("quiet");
	return 0;
})()`

const quietPeer = "[...window.quiet.peers.values()][0]"

// TestOfferOverTheBound lets one side of a call want more than an offer may say: that offer is taken back, the call goes on, and the
// other side can negotiate.
func TestOfferOverTheBound(t *testing.T) {
	t.Parallel()
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	a, b := browser.Open(t, node.URL), browser.Open(t, node.URL)
	both := []pagetest.Page{a, b}
	for _, p := range both {
		pagetest.Evaluate[int](p, quietCall)
	}
	open := func(state string) bool { return state == "stable connected open" }
	state := func(what string) {
		for _, p := range both {
			pagetest.Until(p, what, `(({ pc, channel }) => pc.signalingState + " " + pc.connectionState + " " + channel.readyState)(`+quietPeer+`)`, open)
		}
	}
	state("they are connected")
	pagetest.Evaluate[int](a, `(() => { for (let i = 0; i < 40; i++) `+quietPeer+`.pc.addTransceiver("video"); return 0; })()`)
	refused := func(times int) func([]any) bool {
		return func(errors []any) bool {
			return len(errors) == times && !slices.ContainsFunc(errors, func(e any) bool { return e != 413.0 })
		}
	}
	pagetest.Until(a, "the offer is refused", "window.refusals", refused(1))
	state("the call goes on")

	fragment := func(p pagetest.Page) string {
		return pagetest.Evaluate[string](p, `/^a=ice-ufrag:(.*)$/m.exec(`+quietPeer+`.pc.remoteDescription.sdp)[1]`)
	}
	before := fragment(a)
	pagetest.Evaluate[int](b, `(`+quietPeer+`.pc.restartIce(), 0)`)
	systemtest.Eventually(t, "the other side negotiates", func() bool { return fragment(a) != before })
	pagetest.Until(a, "the offer is refused once more", "window.refusals", refused(2))
	state("the call goes on over another path")
	if errors := pagetest.Evaluate[[]any](b, "window.refusals"); len(errors) > 0 {
		t.Errorf("the other side noticed %v", errors)
	}
}
