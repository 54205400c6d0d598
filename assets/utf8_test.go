package assets_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

// wsPackage is the WebSocket library of most servers that are written for Node. It closes when a text is not UTF-8, as browsers do.
const wsPackage = "ws@8.18.3"

// listenWithWS connects to an address, says the frames that it is given as further arguments, and prints what it hears and how it ends.
const listenWithWS = `
const WebSocket = require("ws");
const [url, ...frames] = process.argv.slice(1);
const socket = new WebSocket(url);
socket.on("open", () => frames.forEach((frame) => socket.send(frame)));
socket.on("message", (data) => console.log(data.toString()));
socket.on("error", ({ message }) => console.log(JSON.stringify({ type: "failed", data: message })));
socket.on("close", (code) => process.exit(code === 1000 ? 0 : 1));
process.stdin.on("end", () => socket.close(1000)).resume();
`

// wsClient is a client in Node. It lives until the test ends, which must be its own end as well.
type wsClient struct {
	t     *testing.T
	lines chan client.Message
	node  *exec.Cmd
	stdin io.Closer
}

// installWS returns a directory where Node finds the library. Without npm or its registry the test is skipped, or fails in CI.
func installWS(t *testing.T) string {
	t.Helper()
	systemtest.Need(t, "node", "npm")
	dir := t.TempDir()
	install := exec.Command("npm", "install", "--prefix", dir, "--no-save", "--no-audit", "--no-fund", "--prefer-offline", wsPackage)
	if out, err := install.CombinedOutput(); err != nil {
		systemtest.Unable(t, fmt.Sprintf("installing %s: %v\n%s", wsPackage, err, out))
	}
	return dir
}

// listen starts a client that says these frames.
func listen(t *testing.T, dir, url string, frames ...string) *wsClient {
	t.Helper()
	c := &wsClient{t: t, lines: make(chan client.Message, 100)}
	c.node = exec.Command("node", append([]string{"-e", listenWithWS, url}, frames...)...)
	c.node.Dir = dir
	stdin, err := c.node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.node.Start(); err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	t.Cleanup(func() { _ = c.node.Process.Kill() })
	go func() {
		defer close(c.lines)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var m client.Message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				m = client.Message{Type: "failed", Data: lines.Bytes()}
			}
			c.lines <- m
		}
	}()
	return c
}

// hear waits for a message that is wanted, and fails if the connection ends before.
func (c *wsClient) hear(wanted func(client.Message) bool) client.Message {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), systemtest.Patience)
	defer cancel()
	for {
		select {
		case m, ok := <-c.lines:
			if !ok || m.Type == "failed" {
				c.t.Fatalf("the connection of Node's client ended: %s", m.Data)
			}
			if wanted(m) {
				return m
			}
		case <-ctx.Done():
			c.t.Fatal("Node's client does not hear what it should")
		}
	}
}

// end says goodbye and returns an error unless that went well.
func (c *wsClient) end() error {
	_ = c.stdin.Close()
	return c.wait()
}

// wait returns how the client ends by itself.
func (c *wsClient) wait() error {
	for range c.lines {
	}
	return c.node.Wait()
}

func isType(kind string) func(client.Message) bool {
	return func(m client.Message) bool { return m.Type == kind }
}

// TestClientsValidate gives each of the clients that other tests trust a text that is not UTF-8: they close.
func TestClientsValidate(t *testing.T) {
	closed := make(chan error, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		_ = ws.SetReadDeadline(time.Now().Add(systemtest.Patience))
		if err = ws.WriteMessage(websocket.TextMessage, []byte("\"\xff\"")); err == nil {
			_, _, err = ws.ReadMessage()
		}
		closed <- err
	}))
	t.Cleanup(server.Close)
	url := strings.Replace(server.URL, "http", "ws", 1)
	node := listen(t, installWS(t), url)
	if err := node.wait(); err == nil {
		t.Error("Node's client took it")
	}
	var theirs *websocket.CloseError
	if err := <-closed; !errors.As(err, &theirs) || theirs.Code != websocket.CloseInvalidFramePayloadData {
		t.Errorf("Node's client ended with %v", err)
	}
	page := pagetest.Start(t).Open(t, systemtest.StartNode(t, "--allowed-origins", "*").URL)
	if code := pagetest.Evaluate[int](page, fmt.Sprintf(`new Promise((resolve) => {
		new WebSocket(%q).onclose = ({ code }) => resolve(code);
	})`, url)); code == websocket.CloseNormalClosure {
		t.Error("Chromium took it")
	}
	if err := <-closed; err == nil || os.IsTimeout(err) {
		t.Errorf("Chromium's end: %v", err)
	}
}

// notUTF8 are frames with a place for what is not UTF-8, in each field that there is and in fields that nobody knows. They
// are for a target in the room.
func notUTF8(target string) (frames []string) {
	for _, kind := range []string{"message", "offer", "answer", "ice_candidate", "join_room", "leave_room", "stun_config", "unknown"} {
		for _, fields := range []string{
			`"data":"%s"`, `"data":"{\"sdp\":\"%s\"}"`, `"data":{"sdp":"%s"}`, `"data":{"%s":1}`, `"data":[["%s"]]`, `"data":{"room_id":"%s"}`,
			`"id":"%s","data":{}`, `"%s":1,"data":{}`, `"user_id":"%s","room_id":"%[1]s","data":{}`, `"data":{},"more":{"a":["%s"]}`,
		} {
			frames = append(frames, fmt.Sprintf(`{"type":%q,"target_id":%q,`, kind, target)+fields+`}`)
		}
	}
	return append(frames, `{"type":"message","target_id":"%s","data":1}`, `{"type":"%s","data":1}`, `{"type":"message","data":1}%s`, `%s`)
}

// TestNotUTF8ReachesNobody has strangers in a room send what is not UTF-8, in every field, whole and in fragments, to two people in
// Chromium in a call and a client in Node. Each stranger is closed with 1007, and nobody else is.
func TestNotUTF8ReachesNobody(t *testing.T) {
	dir := installWS(t)
	node, browser := systemtest.StartNode(t, "--address-connections", "1000", "--max-room-users", "100"), pagetest.Start(t)
	a, b := call(t, browser, node.URL+"?autojoin=1&media=synthetic&room=utf8", "all")
	for _, p := range []pagetest.Page{a, b} {
		pagetest.Evaluate[int](p, noticing)
	}
	join := `{"type":"join_room","data":{"room_id":"utf8"}}`
	listener := listen(t, dir, "ws://"+node.HTTP+"/ws", join)
	listener.hear(isType("user_joined"))

	bad := []string{"\xff", "\xc0\x80", "\xed\xa0\x80", "\xe2\x82", "\xf4\x90\x80\x80"}
	for i, format := range notUTF8(a.User()) {
		frame := fmt.Sprintf(format, bad[i%len(bad)])
		stranger := enter(t, node, join)
		if i%2 == 0 {
			sendWhole(t, stranger, frame)
		} else {
			sendInFragments(t, stranger, frame)
		}
		if err := ended(t, stranger); !websocket.IsCloseError(err, websocket.CloseInvalidFramePayloadData) {
			t.Errorf("%q ended with %v", frame, err)
		}
	}
	binary := enter(t, node, join)
	if err := binary.WebSocket().WriteMessage(websocket.BinaryMessage, []byte("{\"type\":\"message\",\"data\":\"\xff\"}")); err != nil {
		t.Fatal(err)
	}
	marker := `{"type":"message","data":"the last word"}`
	if err := binary.SendFrame([]byte(marker)); err != nil {
		t.Fatal(err)
	}
	if m := listener.hear(isType("message")); string(m.Data) != `"the last word"` {
		t.Errorf("Node's client heard %s", m.Data)
	}
	if err := errors.Join(listener.end(), binary.Close()); err != nil {
		t.Errorf("Node's client ended with %v", err)
	}
	for _, p := range []pagetest.Page{a, b} {
		pagetest.Until(p, "the last word is heard, and no other", "window.lines", func(lines []any) bool {
			return slices.Equal(lines, []any{"the last word"})
		})
		p.Connected(1)
		seen := pagetest.Evaluate[map[string]int](p, "window.seen")
		if delete(seen, "userleft"); len(seen) > 0 {
			t.Errorf("a page noticed %v", seen)
		}
	}
	pagetest.Talk(a, b, "the same call")
}

// strange are frames of which the server writes something itself: texts that are no whole characters when they are decoded
// or cut.
var strange = []string{
	`{"type":"stun_config","id":"\ud800"}`, `{"type":"\ud800","id":"1\udfff"}`, `{"type":"leave_room","id":"\ud83d"}`,
	`{"type":"message","id":"2","target_id":"\udc00","data":1}`, `{"type":"message","id":"3","\ud800":1,"\ud800":2}`,
	`{"type":"message","id":"4","` + strings.Repeat("é", 30) + `":1,"` + strings.Repeat("é", 30) + `":2}`,
	`{"type":"` + strings.Repeat("é", 30) + `","id":"5"}`, `{"type":"x` + strings.Repeat("é", 30) + `","id":"6"}`,
	`{"type":"` + strings.Repeat("😀", 30) + `","id":"` + strings.Repeat("😀", 64) + `"}`,
	`{"type":"join_room","id":"7","data":"{\"room_id\":\"\\ud800\"}"}`,
	`{"id":"\ud800é","type":"message","data":"` + strings.Repeat("é", 40<<10) + `"}`,
	`{"type":"join_room","id":"last","data":{"room_id":"strange"}}`, `{"type":"message","id":"said","data":"\ud800 \udfff"}`,
}

// TestAnswersAreUTF8 has clients that validate say what is strange and hear the answers, and what others say in that way.
func TestAnswersAreUTF8(t *testing.T) {
	node := systemtest.StartNode(t)
	address := "ws://" + node.HTTP + "/ws"
	first := listen(t, installWS(t), address, strange...)
	first.hear(func(m client.Message) bool { return m.ID == "said" })
	page := pagetest.Start(t).Open(t, node.URL)
	frames, err := json.Marshal(strange)
	if err != nil {
		t.Fatal(err)
	}
	if end := pagetest.Evaluate[string](page, fmt.Sprintf(`new Promise((resolve) => {
		const socket = new WebSocket(%q);
		socket.onopen = () => { for (const frame of %s) socket.send(frame); };
		socket.onmessage = ({ data }) => { if (JSON.parse(data).id === "said") resolve("said"); };
		socket.onclose = ({ code }) => resolve("closed with " + code);
	})`, address, frames)); end != "said" {
		t.Errorf("Chromium's connection %s", end)
	}
	if m := first.hear(isType("message")); string(m.Data) != "\"\ufffd \ufffd\"" && string(m.Data) != `"\ud800 \udfff"` {
		t.Errorf("Node's client heard %s", m.Data)
	}
	if err := first.end(); err != nil {
		t.Errorf("Node's client ended with %v", err)
	}
}

// enter returns a client that has joined a room.
func enter(t *testing.T, node *systemtest.Node, join string) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), systemtest.Patience)
	defer cancel()
	c, err := client.Dial(ctx, node.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SendFrame([]byte(join)); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == "user_joined" {
			return c
		}
	}
}

// ended returns how a client's connection ends.
func ended(t *testing.T, c *client.Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), systemtest.Patience)
	defer cancel()
	for {
		if _, err := c.Next(ctx); err != nil {
			return err
		}
	}
}

func sendWhole(t *testing.T, c *client.Client, frame string) {
	t.Helper()
	if err := c.SendFrame([]byte(frame)); err != nil {
		t.Fatal(err)
	}
}

// sendInFragments sends a frame in two pieces, with filling between them since a writer keeps what is short.
func sendInFragments(t *testing.T, c *client.Client, frame string) {
	t.Helper()
	w, err := c.WebSocket().NextWriter(websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{strings.Repeat(" ", 4090), frame} {
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
