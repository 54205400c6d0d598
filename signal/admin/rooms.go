package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"

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

// roomsAsked asks a node for its rooms: one, or some after a name.
type roomsAsked struct {
	ID    string `json:"id,omitempty"`
	After string `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

// roomsTold are rooms by name. More says that there are more.
type roomsTold struct {
	Rooms []room `json:"rooms"`
	More  bool   `json:"more,omitempty"`
}

var (
	aboutRooms = topic[roomsAsked, roomsTold]{"rooms"}
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
	all := aboutRooms.askAll(ctx, s, roomsAsked{After: in.After, Limit: in.Limit})
	rooms, more := merge(all)
	return answer(cut(rooms, func(r room) string { return r.ID }, in.Page, more, all.missing)), nil
}

func (s *Server) getRoom(ctx context.Context, in *RoomPath) (*response[room], error) {
	r, err := s.findRoom(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	return answer(r), nil
}

// findRoom asks the nodes for a room.
func (s *Server) findRoom(ctx context.Context, id string) (room, error) {
	all := aboutRooms.askAll(ctx, s, roomsAsked{ID: id, Limit: 1})
	rooms, _ := merge(all)
	if len(rooms) == 0 {
		return room{}, absent("nobody is in room "+id, all.missing)
	}
	return rooms[0], nil
}

// absent is the error for what no node knows of.
func absent(what string, missing []string) error {
	if len(missing) > 0 {
		return huma.Error503ServiceUnavailable(what+" as far as the nodes have answered", &huma.ErrorDetail{Message: "no answer in time", Location: "nodes", Value: missing})
	}
	return huma.Error404NotFound(what)
}

// merge puts together what the nodes know. Of a room that several know the newest is right.
func merge(all answers[roomsTold]) (rooms []room, more bool) {
	newest := map[string]room{}
	all.each(func(_ string, told roomsTold) {
		more = more || told.More
		for _, r := range told.Rooms {
			if known, ok := newest[r.ID]; !ok || r.Version > known.Version {
				newest[r.ID] = r
			}
		}
	})
	return slices.SortedFunc(maps.Values(newest), func(a, b room) int { return cmp.Compare(a.ID, b.ID) }), more
}

// ownRooms answers another node.
func (s *Server) ownRooms(_ context.Context, q roomsAsked) (told roomsTold) {
	if q.ID != "" {
		if info, ok := s.parts.Signal.Room(q.ID); ok {
			told.Rooms = append(told.Rooms, describe(info))
		}
		return told
	}
	for _, info := range s.parts.Signal.Rooms() {
		if info.ID <= q.After {
			continue
		}
		if len(told.Rooms) == q.Limit {
			told.More = true
			break
		}
		told.Rooms = append(told.Rooms, describe(info))
	}
	return told
}

func describe(info signal.RoomInfo) room {
	r := room{ID: info.ID, Version: info.Version, Members: []member{}}
	for _, m := range info.Members {
		r.Members = append(r.Members, member{m.ID, m.Node})
	}
	return r
}

// closed says how many were in a room that was closed.
type closed struct {
	Kicked int `json:"kicked" doc:"How many members were removed."`
}

func (s *Server) closeRoom(ctx context.Context, in *RoomPath) (*response[closed], error) {
	r, err := s.findRoom(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	var out closed
	for _, m := range r.Members {
		if gone, _ := s.kick(ctx, m.UserID); gone {
			out.Kicked++
		}
	}
	return answer(out), nil
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
