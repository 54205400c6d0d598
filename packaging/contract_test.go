package packaging_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

// person is one client of the wire contract.
type person struct {
	*client.Client
	t     *testing.T
	id    string
	hello client.Message // hello is the stun_config that came first.
}

// connect ends with the test.
func connect(t *testing.T, url string) *person {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := &person{Client: c, t: t}
	p.hello = p.next()
	p.id = p.hello.UserID
	if p.hello.Type != "stun_config" || !regexp.MustCompile(`^user-[a-z2-7]{8}-[a-z2-7]{4}$`).MatchString(p.id) {
		t.Fatalf("the first message is %s", p.hello.Raw)
	}
	return p
}

func (p *person) next() client.Message {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), systemtest.Patience)
	defer cancel()
	m, err := p.Next(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// end waits for the end of the connection.
func (p *person) end() error {
	ctx, cancel := context.WithTimeout(p.t.Context(), systemtest.Patience)
	defer cancel()
	for {
		if _, err := p.Next(ctx); err != nil {
			return err
		}
	}
}

func (p *person) say(format string, args ...any) {
	p.t.Helper()
	var m client.Message
	if err := json.Unmarshal(fmt.Appendf(nil, format, args...), &m); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Send(m); err != nil {
		p.t.Fatal(err)
	}
}

// hears waits for a frame that is this JSON, whatever the order of its fields; ACKs may come before.
func (p *person) hears(format string, args ...any) {
	p.t.Helper()
	want := normal(p.t, fmt.Appendf(nil, format, args...))
	if got := normal(p.t, p.next().Raw); got != want {
		p.t.Fatalf("\n got %s\nwant %s", got, want)
	}
}

func normal(t *testing.T, text []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out, _ := json.Marshal(v)
	return string(out)
}

// turnURLs are those of the stun_config.
func (p *person) turnURLs() []string {
	p.t.Helper()
	var doc struct {
		ICEServers []struct{ URLs []string } `json:"iceServers"`
	}
	if err := p.hello.Document(&doc); err != nil {
		p.t.Fatal(err)
	}
	var urls []string
	for _, s := range doc.ICEServers {
		urls = append(urls, slices.DeleteFunc(s.URLs, func(u string) bool { return strings.HasPrefix(u, "stun:") })...)
	}
	return urls
}

// contract has two people meet at the server of url and say one of each message that clients in the
// field know.
func contract(t *testing.T, url string) {
	t.Helper()
	talk(t, connect(t, url), connect(t, url))
}

// talk has two people meet in a room that nobody else is in.
func talk(t *testing.T, a, b *person) {
	t.Helper()
	room := fmt.Sprintf("room-%d", time.Now().UnixNano())
	joined := func(who string, users ...string) string {
		doc, _ := json.Marshal(map[string]any{"user_id": who, "users": users})
		return fmt.Sprintf(`{"type":"user_joined","user_id":%q,"room_id":%q,"data":%q}`, who, room, doc)
	}
	join := fmt.Sprintf(`{"type":"join_room","data":"{\"room_id\": \"%s\"}"}`, room)
	a.say("%s", join)
	a.hears("%s", joined(a.id, a.id))
	b.say("%s", join)
	b.hears("%s", joined(b.id, a.id, b.id))
	a.hears("%s", joined(b.id, a.id, b.id))
	for kind, data := range map[string]string{
		"offer":         `"{\"sdp\": \"v=0\", \"type\": \"offer\"}"`,
		"answer":        `"{\"sdp\": \"v=0\", \"type\": \"answer\"}"`,
		"ice_candidate": `"{\"candidate\": \"candidate:1\", \"sdpMid\": \"0\", \"sdpMLineIndex\": 0}"`,
		"message":       `{"plain":[1,2]}`,
	} {
		a.say(`{"type":%q,"target_id":%q,"data":%s,"id":"1"}`, kind, b.id, data)
		a.hears(`{"type":"ack","id":"1"}`)
		b.hears(`{"type":%q,"target_id":%q,"data":%s,"user_id":%q,"room_id":%q}`, kind, b.id, data, a.id, room)
	}
	a.say(`{"type":"offer","target_id":"nobody","data":"{\"sdp\": \"\", \"type\": \"offer\"}","id":"2"}`)
	if m := a.next(); m.Type != "error" || m.ID != "2" || !strings.Contains(string(m.Data), "404") {
		t.Fatalf("an offer to nobody is answered with %s", m.Raw)
	}
	b.say(`{"type":"leave_room"}`)
	a.hears(`{"type":"user_left","user_id":%q,"room_id":%q,"data":"{\"reason\":\"leave\"}"}`, b.id, room)
}

// relays has coturn's client relay from client to client over UDP and TCP.
func relays(t *testing.T, host, port, secret string) {
	t.Helper()
	systemtest.NeedRoot(t, "turnutils_uclient")
	for _, mode := range []string{"", "-t"} {
		args := strings.Fields(mode + " -y -c -n 20 -m 2 -l 170 -u bob -p " + port)
		losesNothing(t, 40, func() (string, error) {
			return command(t, nil, "turnutils_uclient", append(args, "-W", secret, host)...)
		})
	}
}

// losesNothing has coturn's client relay a number of messages. It waits for what is under way for 10 s by its own clock, while the other end
// may not have begun for 5 s of them: on a machine that was busy with other things meanwhile it is run again.
func losesNothing(t *testing.T, messages int, run func() (string, error)) {
	t.Helper()
	slowdown := systemtest.Slowdown(t)
	systemtest.Until(t, "coturn's client loses nothing", func() error {
		out, err := run()
		if err == nil && strings.Contains(out, "Total lost packets 0 ") && strings.Contains(out, fmt.Sprintf("tot_recv_msgs=%d\n", messages)) {
			return nil
		}
		if slowdown() == 1 {
			t.Fatalf("%v:\n%s", err, out)
		}
		return fmt.Errorf("%v:\n%s", err, out)
	})
}
