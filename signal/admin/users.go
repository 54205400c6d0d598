package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cline-meet/signal/signal"
)

// connection is one user of a node, with its WebSocket or waiting for it to come back.
type connection struct {
	UserID    string     `json:"user_id"`
	Room      string     `json:"room,omitempty" doc:"The room that the user is in."`
	Node      string     `json:"node"`
	Subject   string     `json:"subject,omitempty" doc:"The subject of the user's token."`
	Name      string     `json:"name,omitempty"`
	Address   string     `json:"address" doc:"The client's IP address."`
	Family    string     `json:"family" enum:"ipv4,ipv6"`
	Transport string     `json:"transport" enum:"ws,wss"`
	Connected bool       `json:"connected" doc:"False while the client is away and may come back."`
	Until     *time.Time `json:"until,omitempty" doc:"How long it may be away."`
	Since     time.Time  `json:"since" doc:"When the user came to the node."`
	Bytes     int64      `json:"bytes" doc:"Memory that is held for the user."`
}

func (c connection) name() string { return c.UserID }
func (c connection) age() int64   { return -c.Since.UnixNano() }

// kickTold says how many users a node had of those that were to go, and how many of their relays.
type kickTold struct {
	Users  int `json:"users,omitempty"`
	Relays int `json:"relays,omitempty"`
}

var (
	aboutUsers = topic[listAsked, listTold[connection]]{"users"}
	aboutKick  = topic[[]string, kickTold]{"kick"}
)

// UserPath names a user.
type UserPath struct {
	User string `path:"user" maxLength:"64" doc:"The user's id."`
}

func (s *Server) registerUsers(api huma.API) {
	const tag = "users"
	huma.Register(api, operation(http.MethodGet, "/v1/connections", "list-connections", tag, "List users with their connections"), s.listConnections)
	huma.Register(api, operation(http.MethodGet, "/v1/users/{user}", "get-user", tag, "Read one user", http.StatusNotFound), s.getUser)
	huma.Register(api, operation(http.MethodPost, "/v1/users/{user}/kick", "kick-user", tag,
		"Kick a user: the socket, the way back and all relays end", http.StatusNotFound), s.kickUser)
	huma.Register(api, operation(http.MethodPost, "/v1/users/{user}/messages", "send-to-user", tag,
		"Send an app message of the owner to one user", http.StatusNotFound), s.sendToUser)
	huma.Register(api, operation(http.MethodPost, "/v1/users/{user}/revoke", "revoke-user", tag,
		"End a user's relays and refuse the TURN credentials that the user has"), s.revokeUser)
}

func (s *Server) listConnections(ctx context.Context, in *struct {
	Page
	Room string `query:"room" maxLength:"128" doc:"Only those in that room."`
}) (*response[list[connection]], error) {
	return answer(ask(ctx, s, aboutUsers, listAsked{Room: in.Room, After: in.After, Limit: in.Limit})), nil
}

func (s *Server) getUser(ctx context.Context, in *UserPath) (*response[connection], error) {
	c, err := find(ctx, s, aboutUsers, in.User, "there is no user "+in.User)
	if err != nil {
		return nil, err
	}
	return answer(c), nil
}

// ownUsers answers another node.
func (s *Server) ownUsers(_ context.Context, q listAsked) listTold[connection] {
	return pick(q, s.parts.Signal.Participants(), func(p signal.ParticipantInfo) string { return p.User }, func(p signal.ParticipantInfo) bool {
		return (q.Name == "" || p.User == q.Name) && (q.Room == "" || p.Room == q.Room)
	}, s.describeUser)
}

func (s *Server) describeUser(p signal.ParticipantInfo) connection {
	c := connection{UserID: p.User, Node: s.parts.State.ID(), Room: p.Room, Subject: p.Subject, Name: p.Name, Address: p.Client.String(), Family: "ipv6", Transport: "ws",
		Connected: p.Connected, Since: p.Since, Bytes: p.Held}
	if p.Client.Is4() {
		c.Family = "ipv4"
	}
	if p.Secure {
		c.Transport = "wss"
	}
	if !p.Connected {
		c.Until = &p.Until
	}
	return c
}

// kicked says what was ended.
type kicked struct {
	Relays       int      `json:"relays" doc:"How many allocations of the user were ended."`
	MissingNodes []string `json:"missing_nodes" nullable:"false" doc:"Nodes that did not answer in time."`
}

func (s *Server) kickUser(ctx context.Context, in *UserPath) (*response[kicked], error) {
	gone, missing := s.kick(ctx, in.User)
	if gone.Users == 0 {
		return nil, absent("there is no user "+in.User, missing)
	}
	return answer(kicked{gone.Relays, missing}), nil
}

// kick has every node end what it has of some users, and returns what that was.
func (s *Server) kick(ctx context.Context, users ...string) (gone kickTold, missing []string) {
	all := aboutKick.askAll(ctx, s, users)
	all.each(func(_ string, told kickTold) {
		gone.Users += told.Users
		gone.Relays += told.Relays
	})
	return gone, all.missing
}

// kickOwn ends what this node has of users, and what may be about to come to it.
func (s *Server) kickOwn(ctx context.Context, users []string) (told kickTold) {
	for _, user := range users {
		if s.parts.Signal.Kick(ctx, user) {
			told.Users++
		}
		told.Relays += s.revokeOwn(ctx, user)
	}
	return told
}

func (s *Server) sendToUser(ctx context.Context, in *struct {
	UserPath
	Body message
}) (*response[told], error) {
	return s.tell(ctx, tellAsked{User: in.User, Data: in.Body.Data}, in.User+" is in no room")
}
