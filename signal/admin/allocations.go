package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cline-meet/signal/turnsrv"
)

// allocation is one relay of a user.
type allocation struct {
	ID             string    `json:"id" doc:"The node and the allocation's number there."`
	Node           string    `json:"node"`
	UserID         string    `json:"user_id" doc:"Whose credentials it was made with."`
	Room           string    `json:"room,omitempty" doc:"The room that the user is in."`
	Client         string    `json:"client" doc:"The client's address and port as the node sees them."`
	Transport      string    `json:"transport" doc:"By which the client speaks to the node."`
	Relays         []string  `json:"relays" nullable:"false" doc:"Where peers reach the client."`
	Since          time.Time `json:"since"`
	Expires        time.Time `json:"expires" doc:"When it ends unless it is refreshed."`
	BytesToPeers   uint64    `json:"bytes_to_peers"`
	BytesFromPeers uint64    `json:"bytes_from_peers"`
	Permissions    int       `json:"permissions" doc:"How many peer addresses may send."`
	Channels       int       `json:"channels"`
	Denied         []denial  `json:"denied" nullable:"false" doc:"What did not pass because its peer had not consented."`
}

// denial is what did not pass in one direction for one reason.
type denial struct {
	Direction string `json:"direction"`
	Reason    string `json:"reason"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

func (a allocation) name() string { return a.ID }
func (a allocation) age() int64   { return 0 } // One node alone has it.

var (
	aboutRelays = topic[listAsked, listTold[allocation]]{"allocations"}
	aboutRevoke = topic[string, int]{"revoke"}
	aboutKill   = topic[string, bool]{"kill"}
	aboutPlaces = topic[[]string, map[string]string]{"places"}
)

func (s *Server) registerAllocations(api huma.API) {
	huma.Register(api, operation(http.MethodGet, "/v1/allocations", "list-allocations", "allocations",
		"List relays with their users and rooms"), s.listAllocations)
	huma.Register(api, operation(http.MethodDelete, "/v1/allocations/{id}", "end-allocation", "allocations",
		"End one relay; its user may make another", http.StatusNotFound, http.StatusServiceUnavailable), s.endAllocation)
}

func (s *Server) listAllocations(ctx context.Context, in *struct {
	Page
	User string `query:"user" maxLength:"64" doc:"Only those of that user."`
}) (*response[list[allocation]], error) {
	l := ask(ctx, s, aboutRelays, listAsked{User: in.User, After: in.After, Limit: in.Limit})
	s.place(ctx, l.Items)
	return answer(l), nil
}

// place fills in the rooms of the users, who may be at other nodes than their relays.
func (s *Server) place(ctx context.Context, relays []allocation) {
	var users []string
	for _, a := range relays {
		users = append(users, a.UserID)
	}
	if len(users) == 0 {
		return
	}
	rooms := map[string]string{}
	aboutPlaces.askAll(ctx, s, users).each(func(_ string, told map[string]string) {
		for user, room := range told {
			rooms[user] = room
		}
	})
	for i := range relays {
		relays[i].Room = rooms[relays[i].UserID]
	}
}

// ownPlaces answers which rooms users of this node are in.
func (s *Server) ownPlaces(_ context.Context, users []string) map[string]string {
	rooms := map[string]string{}
	for _, p := range s.parts.Signal.Participants() {
		if p.Room != "" && slices.Contains(users, p.User) {
			rooms[p.User] = p.Room
		}
	}
	return rooms
}

// ownRelays answers another node.
func (s *Server) ownRelays(_ context.Context, q listAsked) listTold[allocation] {
	all := s.parts.TURN.List()
	slices.SortFunc(all, func(a, b turnsrv.Allocation) int { return cmp.Compare(number(a.ID), number(b.ID)) })
	return pick(q, all, s.relayID, func(a turnsrv.Allocation) bool { return q.User == "" || a.User == q.User }, s.describeRelay)
}

// relayID names an allocation of this node among those of all.
func (s *Server) relayID(a turnsrv.Allocation) string { return s.parts.State.ID() + "." + number(a.ID) }

func (s *Server) describeRelay(a turnsrv.Allocation) allocation {
	d := allocation{ID: s.relayID(a), Node: s.parts.State.ID(), UserID: a.User, Client: a.Client.String(), Transport: a.Transport,
		Relays: []string{}, Since: a.Created, Expires: a.Expires, BytesToPeers: a.BytesToPeers, BytesFromPeers: a.BytesFromPeers,
		Permissions: len(a.Permissions), Channels: len(a.Channels), Denied: []denial{}}
	for _, relay := range a.Relays {
		d.Relays = append(d.Relays, relay.String())
	}
	for _, n := range a.Denied {
		d.Denied = append(d.Denied, denial(n))
	}
	return d
}

// number writes a number so that texts of such have the order of the numbers.
func number(decimal string) string { return strings.Repeat("0", max(0, 12-len(decimal))) + decimal }

func (s *Server) endAllocation(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"128" doc:"The allocation's id."`
}) (*nothing, error) {
	node, id, _ := strings.Cut(in.ID, ".")
	if !s.knows(node) {
		return nil, huma.Error404NotFound("there is no allocation " + in.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch ended, err := aboutKill.ask(ctx, s, node, strings.TrimLeft(id, "0")); {
	case err != nil:
		return nil, huma.Error503ServiceUnavailable("node " + node + " has not answered")
	case !ended:
		return nil, huma.Error404NotFound("there is no allocation " + in.ID)
	}
	return nil, nil
}

func (s *Server) endOwn(_ context.Context, id string) bool {
	return s.parts.TURN != nil && s.parts.TURN.Kill(id)
}

// revoked says what was ended.
type revoked struct {
	Relays       int      `json:"relays" doc:"How many allocations were ended."`
	MissingNodes []string `json:"missing_nodes" nullable:"false" doc:"Nodes that did not answer in time."`
}

func (s *Server) revokeUser(ctx context.Context, in *UserPath) (*response[revoked], error) {
	all := aboutRevoke.askAll(ctx, s, in.User)
	out := revoked{MissingNodes: all.missing}
	all.each(func(_ string, n int) { out.Relays += n })
	return answer(out), nil
}

func (s *Server) revokeOwn(_ context.Context, user string) int {
	return s.parts.TURN.Revoke(user)
}
