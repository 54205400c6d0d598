package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// stormTime is how long all clients have to see all others.
const stormTime = 60 * time.Second

// joinStorm measures how long it takes until clients that join their rooms at once have all seen all
// others of their room. They are connected before.
func joinStorm(ctx context.Context, s scenario, t *target, _ Options) (result, error) {
	members, err := openMembers(ctx, s, t)
	if err != nil {
		return result{}, err
	}
	l, err := newLoopOf(socketsOf(members))
	if err != nil {
		return result{}, err
	}
	defer l.close()
	waiting := len(members)
	for _, m := range members {
		m.handle = func(msg *message, _ time.Time) error {
			if m.see(msg, s.perRoom) {
				waiting--
			}
			return nil
		}
	}
	start, cpu := time.Now(), t.CPU()
	for _, m := range members {
		if err := l.send(m.socket, []byte(joinMessage(m.room, ""))); err != nil {
			return result{}, err
		}
	}
	if err := l.run(ctx, start.Add(stormTime), func() bool { return waiting == 0 }); err != nil {
		return result{}, err
	}
	took := time.Since(start)
	n := float64(len(members))
	return result{
		Seconds: took.Seconds(), Delivered: uint64(len(members)), All: float64(took.Microseconds()) / 1000,
		CPU: float64((t.CPU() - cpu).Microseconds()) / n, Rate: n / took.Seconds(),
		Views: wrongViews(members, s.perRoom), Errors: uint64(l.errors), Trouble: l.trouble,
	}, nil
}

// member is a client of a room, and what it sees of it.
type member struct {
	*socket
	data []byte // data are those of the message that named all.
}

// openMembers connects clients. The first of all rooms come first, then the second ones, and so on.
func openMembers(ctx context.Context, s scenario, t *target) ([]*member, error) {
	if err := checkDescriptors(s.clients); err != nil {
		return nil, err
	}
	rooms := s.clients / s.perRoom
	roomOf := newRoomNames()
	members := make([]*member, rooms*s.perRoom)
	err := atOnce(ctx, len(members), func(i int) error {
		socket, err := dial(ctx, t.Address, t.dialect.path(""), nil)
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
		socket.dialect, socket.room = t.dialect, roomOf(i%rooms)
		members[i] = &member{socket: socket}
		return nil
	})
	if err != nil {
		members = slices.DeleteFunc(members, func(m *member) bool { return m == nil })
		hangUp(socketsOf(members))
		return nil, err
	}
	return members, nil
}

func socketsOf(members []*member) []*socket {
	var sockets []*socket
	for _, m := range members {
		sockets = append(sockets, m.socket)
	}
	return sockets
}

// see notes who is in the room and reports whether that are all now, once.
func (m *member) see(msg *message, all int) bool {
	if string(msg.kind) != "user_joined" {
		return false
	}
	if m.user == "" { // The own user_joined comes before any other.
		m.user = string(msg.user)
	}
	if m.data != nil || countUsers(msg.data) < all {
		return false
	}
	m.data = bytes.Clone(msg.data)
	return true
}

// countUsers returns how many users the data of a user_joined list, without decoding them.
func countUsers(data []byte) int {
	_, list, _ := bytes.Cut(data, []byte("users"))
	_, list, _ = bytes.Cut(list, []byte("["))
	list, _, _ = bytes.Cut(list, []byte("]"))
	return bytes.Count(list, []byte(`"`)) / 2
}

// wrongViews counts the clients that do not see exactly those that are in their room.
func wrongViews(members []*member, perRoom int) (wrong uint64) {
	inRoom := map[string][]string{}
	for _, m := range members {
		inRoom[m.room] = append(inRoom[m.room], m.user)
	}
	for _, users := range inRoom {
		slices.Sort(users)
	}
	for _, m := range members {
		seen := users(m.data)
		slices.Sort(seen)
		if len(seen) != perRoom || !slices.Equal(seen, inRoom[m.room]) {
			wrong++
		}
	}
	return wrong
}

// users decodes the data of a user_joined, which are an object or a string that encodes one.
func users(data []byte) []string {
	var text string
	if json.Unmarshal(data, &text) == nil {
		data = []byte(text)
	}
	var list struct {
		Users []string `json:"users"`
	}
	if json.Unmarshal(data, &list) != nil {
		return nil
	}
	return list.Users
}
