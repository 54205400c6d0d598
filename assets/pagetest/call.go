package pagetest

import (
	"fmt"
	"slices"
)

// Connection is what a page knows of the connection to another person, an element of window.signalPage.peers().
type Connection struct {
	ID              string `json:"id"`
	ConnectionState string `json:"connectionState"`
	LocalType       string `json:"localType"`
	RemoteType      string `json:"remoteType"`
	Protocol        string `json:"protocol"`
	RelayProtocol   string `json:"relayProtocol"`
	RelayURL        string `json:"relayUrl"` // RelayURL is that of the TURN server, as the page was told.
	FramesDecoded   int    `json:"framesDecoded"`
	DataChannel     string `json:"dataChannel"`
}

// Relayed says whether both sides use a relay.
func (c Connection) Relayed() bool { return c.LocalType == "relay" && c.RemoteType == "relay" }

func (c Connection) open() bool {
	return c.ConnectionState == "connected" && c.FramesDecoded > 0 && c.DataChannel == "open"
}

// Peers are the page's connections now.
func (p Page) Peers() []Connection {
	p.T.Helper()
	return Evaluate[[]Connection](p, peers)
}

const peers = "window.signalPage.peers()"

// Connected waits until the page decodes video of that many others by connections of which all of that holds, and goes
// on doing so.
func (p Page) Connected(others int, that ...func(Connection) bool) []Connection {
	p.T.Helper()
	decoded := map[string]int{}
	good := func(c Connection) bool {
		return c.open() && c.FramesDecoded >= decoded[c.ID] &&
			!slices.ContainsFunc(that, func(holds func(Connection) bool) bool { return !holds(c) })
	}
	all := func(connections []Connection) bool {
		return len(connections) == others && !slices.ContainsFunc(connections, func(c Connection) bool { return !good(c) })
	}
	for _, c := range Until(p, "video decodes", peers, all) {
		decoded[c.ID] = c.FramesDecoded + 5
	}
	return Until(p, "decoded frames grow", peers, all)
}

// User waits until the page has joined and returns the id of its user.
func (p Page) User() string {
	p.T.Helper()
	return Until(p, "joined", `window.signalPage.state === "joined" ? window.signalPage.userId : ""`,
		func(id string) bool { return id != "" })
}

// Log returns the lines of the page's log.
func (p Page) Log() []string {
	p.T.Helper()
	return Evaluate[[]string](p, "window.signalPage.log")
}

// Say sends a chat line to all others.
func (p Page) Say(text string) {
	p.T.Helper()
	Evaluate[int](p, fmt.Sprintf("(window.signalPage.sendChat(%q), 0)", text))
}

// line is an element of window.signalPage.chat.
type line struct {
	Text string `json:"text"`
	Own  bool   `json:"own"`
}

// Hears waits for a chat line of another.
func (p Page) Hears(text string) {
	p.T.Helper()
	Until(p, text, "window.signalPage.chat", func(lines []line) bool { return slices.Contains(lines, line{text, false}) })
}

// Talk has one page say something to the other.
func Talk(from, to Page, text string) {
	from.T.Helper()
	from.Say(text)
	to.Hears(text)
}
