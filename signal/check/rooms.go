package check

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"cline-meet/signal/signal/client"
)

// meet is the check whether two participants of a room see and hear each other.
func (s *site) meet(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.name = s.o.Room
	if s.name == "" {
		s.name = "check-" + rand.Text()
	}
	if err := enter(ctx, s.first, s.name); err != nil {
		return "", err
	}
	second, _, err := s.connect(ctx, s.good("")[0].addr)
	if err != nil {
		return "", err
	}
	s.second = second
	return "a message came through", greet(ctx, s.first, second, s.name, s.told)
}

// enter has a client join a room.
func enter(ctx context.Context, c *client.Client, room string) error {
	if err := c.Join(room); err != nil {
		return err
	}
	_, err := await(ctx, c, "user_joined")
	return err
}

// greet has a client join a room where another one is, which must see it, and what the newcomer says must pass from one to the other.
func greet(ctx context.Context, here, newcomer *client.Client, room string, says told) error {
	if err := enter(ctx, newcomer, room); err != nil {
		return err
	}
	if _, err := await(ctx, here, "user_joined"); err != nil {
		return unseen(err)
	}
	word, _ := json.Marshal(says.String())
	if err := newcomer.Send(client.Message{Type: "message", Data: word}); err != nil {
		return err
	}
	m, err := await(ctx, here, "message")
	if err != nil {
		return unseen(err)
	}
	if string(m.Data) != string(word) {
		return fmt.Errorf("%s came out as %s", word, m.Data)
	}
	return nil
}

func unseen(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("two participants of one room do not see each other")
	}
	return err
}

// await returns the next message of a type. A refusal ends it.
func await(ctx context.Context, c *client.Client, want string) (client.Message, error) {
	for {
		m, err := c.Next(ctx)
		switch {
		case err != nil:
			return m, err
		case m.Type == want:
			return m, nil
		case m.Type == "room_full":
			return m, faultf("raise --max-room-users, or give another --room", "room %s is full", m.RoomID)
		case m.Type == "error":
			return m, refusedBy(m)
		}
	}
}

// refusedBy makes an error of the message error.
func refusedBy(m client.Message) error {
	var says struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := m.Document(&says); err != nil {
		return err
	}
	switch says.Code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return faultf("give --room with one that the token opens", "the room is refused (%d: %s)", says.Code, says.Message)
	case http.StatusServiceUnavailable:
		return faultf("look at Redis: the log of the node and its /ready have more", "the room is refused (%d: %s)", says.Code, says.Message)
	}
	return fmt.Errorf("refused: %d %s", says.Code, says.Message)
}

// comeBack is the check whether a participant that lost its connection gets its place back.
func (s *site) comeBack(ctx context.Context) (string, error) {
	if s.greeting.Token == "" {
		return "", untried("the server keeps no place (--resume-grace 0)")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.second.Cut()
	for err := error(nil); err == nil; { // All that came counts for the place.
		_, err = s.second.Next(ctx)
	}
	good := s.good("")
	again, err := s.second.Resume(ctx, s.base.String()+"ws", s.header())
	if err != nil {
		return "", s.refusal(err)
	}
	s.keep(again)
	m, err := again.Next(ctx)
	if err != nil {
		return "", err
	}
	if g, err := m.Greeting(); err != nil || !g.Resumed {
		return "", errors.New("who lost the connection is not known any more when it comes back")
	}
	return "at " + good[0].addr.String(), nil
}

// cluster is the check whether the addresses of a name are one deployment.
func (s *site) cluster(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	good := s.good("")
	if len(good) < 2 {
		return "", untried("the name has one address")
	}
	room, addrs := "check-"+rand.Text(), []netip.Addr{good[0].addr}
	first, _, err := s.connect(ctx, good[0].addr)
	if err == nil {
		err = enter(ctx, first, room)
	}
	for _, a := range good[1:] {
		var other *client.Client
		if err == nil {
			other, _, err = s.connect(ctx, a.addr)
		}
		if err == nil {
			err = greet(ctx, first, other, room, newTold())
		}
		if err != nil {
			return "", fmt.Errorf("%s and %s: %w", good[0].addr, a.addr, err)
		}
		addrs = append(addrs, a.addr)
	}
	return strings.ReplaceAll(join(addrs), ", ", " and ") + " share a room", nil
}
