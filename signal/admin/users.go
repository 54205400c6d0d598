package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
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

// usersAsked asks a node for its users: one, those of a room, or some after a name.
type usersAsked struct {
	User  string `json:"user,omitempty"`
	Room  string `json:"room,omitempty"`
	After string `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

type usersTold struct {
	Users []connection `json:"users"`
	More  bool         `json:"more,omitempty"`
}

// kickTold says what a node has ended of a user.
type kickTold struct {
	Here   bool `json:"here,omitempty"`
	Relays int  `json:"relays,omitempty"`
}

var (
	aboutUsers = topic[usersAsked, usersTold]{"users"}
	aboutKick  = topic[string, kickTold]{"kick"}
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
	all := aboutUsers.askAll(ctx, s, usersAsked{Room: in.Room, After: in.After, Limit: in.Limit})
	users, more := mergeUsers(all)
	return answer(cut(users, func(c connection) string { return c.UserID }, in.Page, more, all.missing)), nil
}

func mergeUsers(all answers[usersTold]) (users []connection, more bool) {
	all.each(func(node string, told usersTold) {
		more = more || told.More
		for _, c := range told.Users {
			c.Node = node
			users = append(users, c)
		}
	})
	slices.SortFunc(users, func(a, b connection) int { return cmp.Compare(a.UserID, b.UserID) })
	return users, more
}

func (s *Server) getUser(ctx context.Context, in *UserPath) (*response[connection], error) {
	all := aboutUsers.askAll(ctx, s, usersAsked{User: in.User, Limit: 1})
	users, _ := mergeUsers(all)
	if len(users) == 0 {
		return nil, absent("there is no user "+in.User, all.missing)
	}
	return answer(users[0]), nil
}

// ownUsers answers another node.
func (s *Server) ownUsers(_ context.Context, q usersAsked) (told usersTold) {
	for _, p := range s.parts.Signal.Participants() {
		if q.User != "" && p.User != q.User || q.Room != "" && p.Room != q.Room || p.User <= q.After {
			continue
		}
		if len(told.Users) == q.Limit {
			told.More = true
			break
		}
		told.Users = append(told.Users, describeUser(p))
	}
	return told
}

func describeUser(p signal.ParticipantInfo) connection {
	c := connection{UserID: p.User, Room: p.Room, Subject: p.Subject, Name: p.Name, Address: p.Client.String(), Family: "ipv6", Transport: "ws",
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
	gone, out := s.kick(ctx, in.User)
	if !gone {
		return nil, absent("there is no user "+in.User, out.MissingNodes)
	}
	return answer(out), nil
}

// kick has every node end what it has of a user; it reports whether one had the user.
func (s *Server) kick(ctx context.Context, user string) (gone bool, out kicked) {
	all := aboutKick.askAll(ctx, s, user)
	all.each(func(_ string, told kickTold) {
		gone = gone || told.Here
		out.Relays += told.Relays
	})
	out.MissingNodes = all.missing
	return gone, out
}

// kickOwn ends what this node has of a user, and what may be about to come to it.
func (s *Server) kickOwn(ctx context.Context, user string) kickTold {
	return kickTold{Here: s.parts.Signal.Kick(user), Relays: s.revokeOwn(ctx, user)}
}

func (s *Server) sendToUser(ctx context.Context, in *struct {
	UserPath
	Body message
}) (*response[told], error) {
	return s.tell(ctx, tellAsked{User: in.User, Data: in.Body.Data}, in.User+" is in no room")
}
