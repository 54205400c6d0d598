package admin

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"cline-meet/signal/signal"
)

// room is one room as its members' nodes know it.
type room struct {
	ID      string   `json:"id" doc:"The room's name."`
	Version uint64   `json:"version" doc:"It grows with every change of the room."`
	Members []member `json:"members" nullable:"false" doc:"In the order in which they joined."`
}

// member is one user in a room.
type member struct {
	UserID string `json:"user_id"`
	Node   string `json:"node" doc:"The node that the user is connected to."`
}

func (r room) name() string { return r.ID }
func (r room) age() int64   { return -int64(r.Version) }

var (
	aboutRooms = topic[listAsked, listTold[room]]{"rooms"}
	aboutTell  = topic[tellAsked, int]{"tell"}
)

// RoomPath names a room.
type RoomPath struct {
	Room string `path:"room" maxLength:"128" doc:"The room's name."`
}

func (s *Server) registerRooms(api huma.API) {
	const tag = "rooms"
	huma.Register(api, operation(http.MethodGet, "/v1/rooms", "list-rooms", tag, "List rooms with their members"), s.listRooms)
	huma.Register(api, operation(http.MethodGet, "/v1/rooms/{room}", "get-room", tag, "Read one room", http.StatusNotFound), s.getRoom)
	huma.Register(api, operation(http.MethodDelete, "/v1/rooms/{room}", "close-room", tag,
		"Close a room: every member is kicked", http.StatusNotFound), s.closeRoom)
	huma.Register(api, operation(http.MethodPost, "/v1/rooms/{room}/messages", "send-to-room", tag,
		"Send an app message of the owner to all members of a room", http.StatusNotFound), s.sendToRoom)
}

func (s *Server) listRooms(ctx context.Context, in *struct{ Page }) (*response[list[room]], error) {
	return answer(ask(ctx, s, aboutRooms, listAsked{After: in.After, Limit: in.Limit})), nil
}

func (s *Server) getRoom(ctx context.Context, in *RoomPath) (*response[room], error) {
	r, err := s.findRoom(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	return answer(r), nil
}

func (s *Server) findRoom(ctx context.Context, id string) (room, error) {
	return find(ctx, s, aboutRooms, id, "nobody is in room "+id)
}

// absent is the error for what no node knows of.
func absent(what string, missing []string) error {
	if len(missing) > 0 {
		return huma.Error503ServiceUnavailable(what+" as far as the nodes have answered", &huma.ErrorDetail{Message: "no answer in time", Location: "nodes", Value: missing})
	}
	return huma.Error404NotFound(what)
}

// ownRooms answers another node.
func (s *Server) ownRooms(_ context.Context, q listAsked) (told listTold[room]) {
	if q.Name == "" {
		return pick(q, s.parts.Signal.Rooms(), func(info signal.RoomInfo) string { return info.ID }, func(signal.RoomInfo) bool { return true }, describeRoom)
	}
	if info, ok := s.parts.Signal.Room(q.Name); ok {
		told.Items = append(told.Items, describeRoom(info))
	}
	return told
}

func describeRoom(info signal.RoomInfo) room {
	r := room{ID: info.ID, Version: info.Version, Members: []member{}}
	for _, m := range info.Members {
		r.Members = append(r.Members, member{m.ID, m.Node})
	}
	return r
}

// closed says how many were in a room that was closed.
type closed struct {
	Kicked       int      `json:"kicked" doc:"How many members were removed."`
	MissingNodes []string `json:"missing_nodes" nullable:"false" doc:"Nodes that did not answer in time."`
}

func (s *Server) closeRoom(ctx context.Context, in *RoomPath) (*response[closed], error) {
	r, err := s.findRoom(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, m := range r.Members {
		users = append(users, m.UserID)
	}
	gone, missing := s.kick(ctx, users...)
	return answer(closed{gone.Users, missing}), nil
}

// message is what the owner says.
type message struct {
	Data json.RawMessage `json:"data" doc:"Anything. Members get it as a message of user_id owner."`
}

// told says how many were there to be told.
type told struct {
	Receivers int `json:"receivers" doc:"How many members the message went to."`
}

// tellAsked has a node send a message to its members in a room, or to one user; what is empty is any.
type tellAsked struct {
	Room string          `json:"room,omitempty"`
	User string          `json:"user,omitempty"`
	Data json.RawMessage `json:"data"`
}

func (s *Server) sendToRoom(ctx context.Context, in *struct {
	RoomPath
	Body message
}) (*response[told], error) {
	return s.tell(ctx, tellAsked{Room: in.Room, Data: in.Body.Data}, "nobody is in room "+in.Room)
}

func (s *Server) tell(ctx context.Context, q tellAsked, nobody string) (*response[told], error) {
	all := aboutTell.askAll(ctx, s, q)
	var out told
	all.each(func(_ string, n int) { out.Receivers += n })
	if out.Receivers == 0 {
		return nil, absent(nobody, all.missing)
	}
	return answer(out), nil
}

func (s *Server) tellOwn(_ context.Context, q tellAsked) int {
	return s.parts.Signal.Tell(q.Room, q.User, q.Data)
}
