package packaging_test

import (
	"errors"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// callAcross has two people call each other with a browser, one on each node, relayed in any case.
func callAcross(t *testing.T, m *machine) {
	browser := pagetest.Start(t)
	seen := map[string]bool{}
	var pages []pagetest.Page
	systemtest.Until(t, "pages on both nodes", func() error {
		p := browser.Open(t, "http://"+m.ip+":8080/?autojoin=1&room=across&media=synthetic&transport=relay")
		node := pagetest.Until(p, "a node greets", nodeOfPage, func(s string) bool { return s != "" })
		pages, seen[node] = append(pages, p), true
		if len(seen) < 2 {
			return errors.New("all on " + node)
		}
		return nil
	})
	for _, p := range pages {
		p.Connected(len(pages)-1, pagetest.Connection.Relayed)
	}
	t.Logf("%d people on %d nodes see each other through relays", len(pages), len(seen))
}

// nodeOfPage tells the nodes apart by the port of their TURN server.
const nodeOfPage = `window.signalPage.log.join(" ").match(/turn:[^?, ]+/)?.[0] ?? ""`
