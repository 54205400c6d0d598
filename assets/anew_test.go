package assets_test

import (
	"fmt"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// TestOneSideBeginsAnew lets one page see the other leave and join again, of which that one hears nothing but
// that it has missed something, as when its node was taken for dead: both end on one new connection, whose data
// channel works as well.
func TestOneSideBeginsAnew(t *testing.T) {
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	for _, first := range []string{"earlier", "later"} {
		t.Run("the "+first+" one", func(t *testing.T) {
			a, b := call(t, browser, node.URL+"?autojoin=1&media=synthetic&room="+first, "all")
			if first == "later" {
				a, b = b, a
			}
			pagetest.Evaluate[int](b, fmt.Sprintf(`(() => {
				const { client } = window.signalPage;
				const emit = (name, detail) => client.dispatchEvent(new CustomEvent(name, { detail }));
				const about = { userId: %q, room: client.room };
				emit("userleft", { ...about, reason: "node_lost" });
				emit("userjoined", { ...about, users: client.users });
				return 0;
			})()`, a.User()))
			pagetest.Evaluate[int](a, `(() => {
				const { client } = window.signalPage;
				client.dispatchEvent(new CustomEvent("resumed", { detail: { userId: client.userId, gap: true } }));
				return 0;
			})()`)
			for _, p := range []pagetest.Page{b, a} {
				p.Connected(1)
			}
			pagetest.Talk(a, b, "over the new one")
			pagetest.Talk(b, a, "over the same one")
		})
	}
}
