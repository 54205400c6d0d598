package signal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v4"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

// beat is the pace of what stands for media in these calls: 50 packets a second.
const beat = 20 * time.Millisecond

// caller is one side of a call that may use relays only. When its node goes away it resumes at
// another and restarts ICE with that node's relays, as signal.js does.
type caller struct {
	t       *testing.T
	name    string
	nodes   []*systemtest.Node
	peer    *webrtc.PeerConnection
	media   *webrtc.DataChannel
	working sync.WaitGroup
	stop    context.CancelFunc
	ctx     context.Context

	// describing is held until the other side has been sent a description, since candidates that come
	// before it count for the one before.
	describing sync.Mutex

	mu       sync.Mutex
	conn     *client.Client
	cookie   *http.Cookie
	user     string
	other    string
	joined   bool
	offers   bool             // offers says that this side makes the offers.
	again    bool             // again says that another offer has to follow; the serving goroutine owns it.
	moving   bool             // moving says that nothing must be said now.
	unacked  string           // unacked is the id of the line that waits for its ack, empty for none.
	later    []client.Message // later is to be sent when there is a connection again.
	pending  []webrtc.ICECandidateInit
	lines    []string
	left     []string
	resumed  int
	refused  int
	received time.Time
	gap      time.Duration
}

// newCaller connects to a node and joins a room; call it for the offering side first.
func newCaller(t *testing.T, name string, nodes []*systemtest.Node, first int, room string) *caller {
	t.Helper()
	c := &caller{t: t, name: name, nodes: nodes}
	c.ctx, c.stop = context.WithCancel(context.Background())
	start := c.dial(client.Dial, nodes[first])
	if start == nil {
		t.Fatal("no node")
	}
	peer, err := webrtc.NewPeerConnection(webrtc.Configuration{ICETransportPolicy: webrtc.ICETransportPolicyRelay, ICEServers: start.ICEServers})
	if err != nil {
		t.Fatal(err)
	}
	c.peer = peer
	negotiated, ordered, none, id := true, false, uint16(0), uint16(7)
	c.media, err = peer.CreateDataChannel("media", &webrtc.DataChannelInit{Negotiated: &negotiated, ID: &id, Ordered: &ordered, MaxRetransmits: &none})
	if err != nil {
		t.Fatal(err)
	}
	c.media.OnMessage(func(webrtc.DataChannelMessage) { c.hearMedia() })
	c.media.OnOpen(func() { c.working.Go(c.sendMedia) })
	peer.OnICECandidate(func(candidate *webrtc.ICECandidate) {
		if candidate != nil {
			c.describing.Lock()
			defer c.describing.Unlock()
			c.relay("ice_candidate", document(candidate.ToJSON()))
		}
	})
	c.working.Go(c.serve)
	t.Cleanup(c.close)
	if err := c.connection().Join(room); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *caller) close() {
	c.stop()
	_ = c.connection().Close()
	_ = c.peer.GracefulClose()
	c.working.Wait()
}

// start is what a node says first.
type start struct {
	ICEServers []webrtc.ICEServer `json:"iceServers"`
	Resumed    bool               `json:"resumed"`
}

// dialing opens a connection, as client.Dial does.
type dialing func(context.Context, string, http.Header) (*client.Client, error)

// to connects to a node, with a cookie unless that is nil, and returns what the node says first.
func (dial dialing) to(ctx context.Context, node *systemtest.Node, cookie *http.Cookie) (*client.Client, client.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	header := http.Header{}
	if cookie != nil {
		header.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
	conn, err := dial(ctx, node.URL+"ws", header)
	if err != nil {
		return nil, client.Message{}, err
	}
	first, err := conn.Next(ctx)
	if err != nil {
		_ = conn.Close()
	}
	return conn, first, err
}

// dial opens a connection and takes in its first message; it returns nil when that fails.
func (c *caller) dial(dial dialing, node *systemtest.Node) *start {
	conn, m, err := dial.to(c.ctx, node, c.cookie)
	if err != nil {
		return nil
	}
	var s start
	if json.Unmarshal(m.Data, &s) != nil {
		_ = conn.Close()
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cookies := conn.Cookies(); len(cookies) > 0 {
		c.cookie = cookies[0]
	}
	c.conn, c.user, c.moving, c.unacked = conn, m.UserID, false, ""
	for _, m := range c.later {
		_ = conn.Send(m)
	}
	c.later = nil
	return &s
}

func (c *caller) connection() *client.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// serve handles what the server says, and moves to another node when it must.
func (c *caller) serve() {
	for c.ctx.Err() == nil {
		conn := c.connection()
		m, err := conn.Next(c.ctx)
		if err != nil || m.Type == "reconnect" {
			if m.Type == "reconnect" {
				var d struct {
					AfterMS int `json:"after_ms"`
				}
				_ = m.Document(&d)
				c.settle(conn, time.Duration(d.AfterMS)*time.Millisecond)
			}
			c.move(conn)
			continue
		}
		c.handle(m)
	}
}

// settle goes on until the time has come to leave and all that was said is acknowledged.
func (c *caller) settle(conn *client.Client, after time.Duration) {
	due := time.Now().Add(after)
	ctx, cancel := context.WithDeadline(c.ctx, due)
	defer cancel()
	for {
		m, err := conn.Next(ctx)
		if err == nil {
			c.handle(m)
		}
		c.mu.Lock()
		c.moving = c.moving || ctx.Err() != nil
		done := c.moving && c.unacked == ""
		c.mu.Unlock()
		switch {
		case done, err != nil && ctx.Err() == nil:
			return
		case ctx.Err() != nil:
			ctx = c.ctx
		}
	}
}

// move resumes at any node that answers and asks for an ICE restart with its relays.
func (c *caller) move(old *client.Client) {
	c.mu.Lock()
	c.moving = true
	c.mu.Unlock()
	// All that was said arrives before a goodbye that is none for good.
	bye := websocket.FormatCloseMessage(4000, "moving")
	_ = old.WebSocket().WriteControl(websocket.CloseMessage, bye, time.Now().Add(patience))
	for attempt := 0; c.ctx.Err() == nil; attempt++ {
		for { // What had arrived counts.
			m, err := old.Next(c.ctx)
			if err != nil {
				break
			}
			c.handle(m)
		}
		s := c.dial(old.Resume, c.nodes[attempt%len(c.nodes)])
		if s == nil {
			wait(c.ctx, beat)
			continue
		}
		c.mu.Lock()
		if s.Resumed {
			c.resumed++
		} else {
			c.refused++
		}
		c.mu.Unlock()
		c.use(s.ICEServers)
		return
	}
}

func (c *caller) handle(m client.Message) {
	switch m.Type {
	case "user_joined":
		c.met(m)
	case "user_left":
		c.mu.Lock()
		c.left = append(c.left, m.UserID)
		c.mu.Unlock()
	case "offer", "answer":
		c.describe(m)
	case "ice_candidate":
		c.candidate(m)
	case "message":
		c.listen(m)
	case "stun_config":
		c.refreshed(m)
	case "ack":
		c.mu.Lock()
		c.unacked = ""
		c.mu.Unlock()
	case "error":
		c.t.Errorf("%s: %s", c.name, m.Raw)
	}
}

// refreshed goes over to other relays when those that it may use have changed.
func (c *caller) refreshed(m client.Message) {
	var fresh start
	if err := m.Document(&fresh); err != nil {
		c.t.Error(err)
	}
	c.use(fresh.ICEServers)
}

// use restarts ICE with the relays of those servers.
func (c *caller) use(servers []webrtc.ICEServer) {
	if c.peer.ICEGatheringState() == webrtc.ICEGatheringStateGathering {
		<-webrtc.GatheringCompletePromise(c.peer) // The library reads the servers meanwhile.
	}
	err := c.peer.SetConfiguration(webrtc.Configuration{ICETransportPolicy: webrtc.ICETransportPolicyRelay, ICEServers: servers})
	if err != nil {
		c.t.Errorf("%s: %v", c.name, err)
	}
	if c.offers {
		c.offer(true)
	} else {
		c.relay("message", document("restart"))
	}
}

func (c *caller) met(m client.Message) {
	var joined struct{ Users []string }
	if err := m.Document(&joined); err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	c.joined = true
	fresh := c.other == "" && len(joined.Users) == 2
	for _, u := range joined.Users {
		if u != c.user {
			c.other = u
		}
	}
	c.offers = c.offers || fresh && joined.Users[0] == c.user
	offer := fresh && c.offers
	c.mu.Unlock()
	if offer {
		c.offer(false)
	}
}

func (c *caller) offer(restart bool) {
	if c.peer.SignalingState() == webrtc.SignalingStateHaveLocalOffer {
		c.again = true // Its answer comes first.
		return
	}
	c.describing.Lock()
	defer c.describing.Unlock()
	offer, err := c.peer.CreateOffer(&webrtc.OfferOptions{ICERestart: restart})
	if err == nil {
		err = c.peer.SetLocalDescription(offer)
	}
	if err != nil {
		c.t.Errorf("%s: offering: %v", c.name, err)
		return
	}
	c.relay("offer", document(offer))
}

func (c *caller) describe(m client.Message) {
	var description webrtc.SessionDescription
	if err := m.Document(&description); err != nil {
		c.t.Error(err)
		return
	}
	if description.Type == webrtc.SDPTypeAnswer && c.peer.SignalingState() != webrtc.SignalingStateHaveLocalOffer {
		return // It answers an offer that a later one replaced.
	}
	if err := c.peer.SetRemoteDescription(description); err != nil {
		c.t.Errorf("%s: %v", c.name, err)
		return
	}
	for _, candidate := range c.pending {
		_ = c.peer.AddICECandidate(candidate)
	}
	c.pending = nil
	if description.Type != webrtc.SDPTypeOffer {
		if c.again {
			c.again = false
			c.offer(true)
		}
		return
	}
	c.describing.Lock()
	defer c.describing.Unlock()
	answer, err := c.peer.CreateAnswer(nil)
	if err == nil {
		err = c.peer.SetLocalDescription(answer)
	}
	if err != nil {
		c.t.Errorf("%s: answering: %v", c.name, err)
		return
	}
	c.relay("answer", document(answer))
}

func (c *caller) candidate(m client.Message) {
	var candidate webrtc.ICECandidateInit
	if err := m.Document(&candidate); err != nil {
		c.t.Error(err)
		return
	}
	if c.peer.RemoteDescription() == nil {
		c.pending = append(c.pending, candidate)
		return
	}
	_ = c.peer.AddICECandidate(candidate) // One of an earlier generation is refused, rightly.
}

func (c *caller) listen(m client.Message) {
	if string(m.Data) == `"restart"` {
		c.offer(true)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, string(m.Data))
}

// relay sends something to the other side through the signaling server, or keeps it until there is a
// connection again.
func (c *caller) relay(kind string, data json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := client.Message{Type: kind, TargetID: c.other, Data: data}
	if c.moving || c.conn.Send(m) != nil {
		c.later = append(c.later, m)
	}
}

// say sends a line and waits until it is acknowledged; it reports whether it was sent at all.
func (c *caller) say(ctx context.Context, number int) bool {
	c.mu.Lock()
	conn, other, moving := c.conn, c.other, c.moving
	id := strconv.Itoa(number)
	if !moving {
		c.unacked = id
	}
	c.mu.Unlock()
	if moving || conn.Send(client.Message{Type: "message", ID: id, TargetID: other, Data: document(number)}) != nil {
		return false
	}
	for ctx.Err() == nil {
		c.mu.Lock()
		acknowledged := c.unacked != id
		c.mu.Unlock()
		if acknowledged {
			return true
		}
		wait(ctx, beat/4)
	}
	return true
}

func (c *caller) sendMedia() {
	packet := make([]byte, 160)
	for c.ctx.Err() == nil {
		_ = c.media.Send(packet)
		wait(c.ctx, beat)
	}
}

func (c *caller) hearMedia() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.received.IsZero() {
		c.gap = max(c.gap, now.Sub(c.received))
	}
	c.received = now
}

func (c *caller) alone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.joined {
		return fmt.Errorf("%s is in no room", c.name)
	}
	return nil
}

// hears returns nil when media arrived a moment ago.
func (c *caller) hears() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.received) > 5*beat {
		return fmt.Errorf("%s heard nothing since %s, ICE is %s", c.name, c.received, c.peer.ICEConnectionState())
	}
	return nil
}

// hearsAfter returns nil when media arrived after that time over a path that is settled.
func (c *caller) hearsAfter(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.received.Before(at) || c.peer.SignalingState() != webrtc.SignalingStateStable || c.peer.ICEConnectionState() == webrtc.ICEConnectionStateChecking {
		return fmt.Errorf("%s heard last at %s, ICE is %s", c.name, c.received, c.peer.ICEConnectionState())
	}
	return nil
}

// chat says a line every now and then until ctx ends, and returns how many.
func (c *caller) chat(ctx context.Context) (said int) {
	for ctx.Err() == nil {
		if c.say(ctx, said) {
			said++
		}
		wait(ctx, 5*beat)
	}
	return said
}

func (c *caller) heardLines(count int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var want []string
	for n := range count {
		want = append(want, strconv.Itoa(n))
	}
	if !slices.Equal(c.lines, want) {
		return fmt.Errorf("%s heard %d lines of %d: %v", c.name, len(c.lines), count, c.lines)
	}
	return nil
}
