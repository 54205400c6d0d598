package bench

import (
	"fmt"
	"slices"
	"strings"
)

// A dialect is how a kind of server is spoken to.
type dialect struct {
	name   string
	kinds  [kinds]string // kinds are the types of messages that are relayed.
	target string        // target, sender and data name the fields of a message.
	sender string        // sender is empty where nobody stamps messages.
	data   string
	rooms  bool   // rooms says that clients join rooms; acks and resume come with that.
	alone  bool   // alone says that a client gets back what it sends.
	beat   string // beat is a message by which clients stay alive, empty for none.
	path   func(client string) string
}

var dialects = []*dialect{
	{
		name: "signal", kinds: [kinds]string{"offer", "answer", "ice_candidate"},
		target: "target_id", sender: "user_id", data: "data", rooms: true,
		path: func(string) string { return "/ws" },
	},
	{
		name: "peerjs", kinds: [kinds]string{"OFFER", "ANSWER", "CANDIDATE"},
		target: "dst", sender: "src", data: "payload", beat: `{"type":"HEARTBEAT"}`,
		path: func(client string) string { return "/peerjs?key=peerjs&token=bench&id=" + client },
	},
	{
		name: "echo", kinds: [kinds]string{"offer", "answer", "ice_candidate"},
		target: "target_id", data: "data", alone: true,
		path: func(string) string { return "/" },
	},
}

// signalDialect is that of the wire contract, echoDialect that of a server which sends all back.
var signalDialect, echoDialect = dialects[0], dialects[2]

func findDialect(name string) (*dialect, error) {
	i := slices.IndexFunc(dialects, func(d *dialect) bool { return strings.EqualFold(d.name, name) })
	if i < 0 {
		return nil, fmt.Errorf("there is no dialect %q: signal, peerjs and echo are known", name)
	}
	return dialects[i], nil
}

// appendHead appends a message to a target up to where its data begin. An id asks for an ack.
func (d *dialect) appendHead(to []byte, k kind, target, id string) []byte {
	to = append(append(append(to, `{"type":"`...), d.kinds[k]...), `",`...)
	if id != "" {
		to = append(append(append(to, `"id":"`...), id...), `",`...)
	}
	to = append(append(append(to, '"'), d.target...), `":"`...)
	to = append(append(append(to, target...), `","`...), d.data...)
	return append(to, `":`...)
}

// kindOf returns what a message that was relayed is.
func (d *dialect) kindOf(text []byte) (kind, bool) {
	for k, name := range d.kinds {
		if string(text) == name {
			return kind(k), true
		}
	}
	return 0, false
}

// message is what a server has sent. Values are as they are on the wire, strings without their
// quotes and data with them.
type message struct {
	kind, id, user, sender, data []byte
}

// read takes the fields of a JSON object apart that are looked at, without decoding them. It reports
// false when text is none.
func (d *dialect) read(text []byte, m *message) bool {
	*m = message{}
	return eachField(text, func(name, value []byte) {
		switch string(name) {
		case "type":
			m.kind = unquoted(value)
		case "id":
			m.id = unquoted(value)
		case "user_id":
			m.user = unquoted(value)
		case d.data:
			m.data = value
		}
		if string(name) == d.sender {
			m.sender = unquoted(value)
		}
	})
}
