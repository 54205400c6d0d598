package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// begin announces a change of a room, once it is not in doubt and no assertion is under way. It must be followed by end.
func (r *Redis) begin(ctx context.Context, room string) (*mirror, error) {
	r.AwaitTrust(ctx, room)
	for {
		r.mu.Lock()
		m := r.mirrorLocked(room)
		if m.asserting == nil {
			m.busy++
			r.mu.Unlock()
			return m, nil
		}
		wait := m.asserting
		r.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the room: %w", ErrUnavailable)
		}
	}
}

func (r *Redis) end(room string, m *mirror) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.busy--
	r.tidyLocked(room, m)
	if _, dirty := r.dirty[room]; dirty && m.busy == 0 {
		wake(r.work)
	}
}

func (r *Redis) mirrorLocked(room string) *mirror {
	m := r.rooms[room]
	if m == nil {
		m = &mirror{touched: time.Now(), own: map[string]stay{}, leaving: map[string]Departure{}}
		r.rooms[room] = m
	}
	return m
}

// tidyLocked forgets a room that is none of this node's business any more.
func (r *Redis) tidyLocked(room string, m *mirror) {
	if _, dirty := r.dirty[room]; !dirty && m.busy == 0 && m.asserting == nil && len(m.own) == 0 {
		delete(r.rooms, room)
		if m.indexed {
			r.filing[room] = false
		}
	}
}

// Join adds a member of this node to a room of at most limit members and returns the room as it is
// then. A member that is there with an older epoch is replaced, at the end of the join order. It
// fails with ErrRoomFull, with ErrStale when the same or a newer epoch is there, and with
// ErrUnavailable while Redis is away, unless the policy is OutageLocal. Then the limit counts the
// members that this node knows of, and nodes that did so at the same time may exceed it together.
func (r *Redis) Join(ctx context.Context, room string, who Member, limit int) (View, error) {
	began := time.Now()
	m, err := r.begin(ctx, room)
	if err != nil {
		return View{}, err
	}
	defer r.end(room, m)
	undo, ok := r.claim(m, who)
	if !ok {
		return View{}, fmt.Errorf("joining: %w", ErrStale)
	}
	args := []any{who.ID, epochText(who.Epoch), limit}
	for _, node := range r.lostNodes() {
		args = append(args, node)
	}
	rep, err := r.change(ctx, "join", joinScript, room, 0, args...)
	switch {
	case errors.Is(err, errLapsed): // It was frozen, and what it hears may be old: the member may be elsewhere by now.
		r.suspect(room)
	case err != nil && ctx.Err() == nil && r.cfg.Outage == OutageLocal:
		return r.joinLocally(room, m, who, limit, undo)
	case err != nil:
		r.suspect(room)
	case rep.status == "stale":
		err = ErrStale
	case rep.status == "full":
		err = ErrRoomFull
	}
	if err != nil {
		undo()
		return View{}, fmt.Errorf("joining: %w", err)
	}
	reason := func(e entry) Reason {
		if e.ID == who.ID {
			return ReasonDisconnect
		}
		return ReasonNodeLost
	}
	v := r.conclude(room, m, rep, reason)
	r.follow("join", v, who, began)
	return v, nil
}

// Move puts a member's newer connection, on this node, into the place of the older one, at whatever
// node that is, without a departure. It fails with ErrNotMember when the older one is not there, with a view that has
// another newer one alone if there is such, and with ErrUnavailable while Redis is away, unless the older one is on this node too. Known are the members
// that the room had when the member was at its former node, itself included: if Redis has lost the
// room meanwhile, they are there all the same.
func (r *Redis) Move(ctx context.Context, room string, old Member, epoch uint64, known ...Member) (View, error) {
	return r.move(ctx, room, old, epoch, 0, known)
}

// move is Move, which Redis remembers for a time if the older connection's node does not know of it.
func (r *Redis) move(ctx context.Context, room string, old Member, epoch uint64, remember time.Duration, known []Member) (View, error) {
	began := time.Now()
	m, err := r.begin(ctx, room)
	if err != nil {
		return View{}, err
	}
	defer r.end(room, m)
	who := Member{ID: old.ID, Epoch: epoch}
	r.mu.Lock()
	before, own := m.own[old.ID]
	own = own && before.epoch == old.Epoch
	r.mu.Unlock()
	undo, ok := r.claim(m, who)
	if !ok {
		return View{}, fmt.Errorf("moving: %w", ErrNotMember)
	}
	joined := max(old.Joined, before.joined)
	if i := slices.IndexFunc(known, func(m Member) bool { return m.ID == old.ID }); i >= 0 {
		joined = max(joined, known[i].Joined)
	}
	rep, err := r.change(ctx, "move", moveScript, room, 0, old.ID, epochText(old.Epoch), epochText(epoch), joined, old.Node, remember.Milliseconds())
	if err != nil && own && ctx.Err() == nil {
		return r.moveLocally(room, m, who, before), nil
	}
	status, from, _ := strings.Cut(rep.status, " ")
	var newer View
	switch {
	case err != nil:
		r.suspect(room)
	case status == "none":
		newer, err = newerView(room, old.ID, from), ErrNotMember
	}
	if err != nil {
		undo()
		return newer, fmt.Errorf("moving: %w", err)
	}
	if status == "back" {
		r.learnMembers(m, known)
	}
	v := r.conclude(room, m, rep, nil, from)
	r.follow("move", v, who, began)
	return v, nil
}

// newerView returns a view that has one member alone, as Redis holds it, and an empty one for none.
func newerView(room, id, text string) View {
	found, err := parseEntries([]any{id, text})
	if err != nil || len(found) == 0 {
		return View{}
	}
	return View{Room: room, Members: []Member{found[0].member()}}
}

// Leave removes the member with that id and epoch and returns the room as it is then. It fails with
// ErrNotMember when that connection is not in the room. A member of this node leaves also while
// Redis is away: the others hear of it when it is back.
func (r *Redis) Leave(ctx context.Context, room, id string, epoch uint64, why Reason) (View, error) {
	began := time.Now()
	m, err := r.begin(ctx, room)
	if err != nil {
		return View{}, err
	}
	defer r.end(room, m)
	who := Member{ID: id, Epoch: epoch}
	own := r.disown(m, who, why)
	rep, err := r.change(ctx, "leave", leaveScript, room, 0, id, epochText(epoch))
	switch {
	case own && (err != nil || rep.status == "none"):
		return r.leaveLocally(room, m, id), nil
	case err == nil && rep.status != "ok":
		err = ErrNotMember
		r.forgive(m, id)
	}
	if err != nil {
		return View{}, fmt.Errorf("leaving: %w", err)
	}
	v := r.conclude(room, m, rep, func(entry) Reason { return why })
	r.follow("leave", v, who, began)
	return v, nil
}

// learnMembers adds to a mirror what a former node knew of a room that Redis has lost.
func (r *Redis) learnMembers(m *mirror, known []Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.members = slices.Clone(m.members)
	for _, who := range known {
		m.version = max(m.version, who.Joined)
		if _, there := find(m.members, who.ID); !there {
			m.members = append(m.members, entry(who))
		}
	}
	m.founded = otherFounding
}

// follow lets an operator follow a member through the nodes.
func (r *Redis) follow(op string, v View, who Member, began time.Time) {
	r.log.Debug("room changed", "op", op, "node", r.id, "room", v.Room, "user", who.ID, "epoch", who.Epoch,
		"version", v.Version, "members", len(v.Members), "took_ms", time.Since(began).Milliseconds())
}

// claim notes a member whose join is under way, unless the same or a newer one is here. Undo takes
// it back.
func (r *Redis) claim(m *mirror, who Member) (undo func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, was := m.own[who.ID]
	if was && before.epoch >= who.Epoch {
		return nil, false
	}
	m.own[who.ID] = stay{epoch: who.Epoch}
	delete(m.leaving, who.ID)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if m.own[who.ID].epoch != who.Epoch {
			return
		}
		delete(m.own, who.ID)
		if was {
			m.own[who.ID] = before
		}
	}, true
}

// disown forgets a member of this node and reports whether it was one.
func (r *Redis) disown(m *mirror, who Member, why Reason) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := m.own[who.ID]
	if !ok || s.epoch != who.Epoch {
		return false
	}
	delete(m.own, who.ID)
	who.Node, who.Joined = r.id, s.joined
	m.leaving[who.ID] = Departure{Member: who, Reason: why}
	return true
}

// forgive forgets a departure that was none.
func (r *Redis) forgive(m *mirror, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(m.leaving, id)
}

// conclude takes over the room as a change of this node's left it, has the other nodes told, those
// that also names included, and returns the view for the caller.
func (r *Redis) conclude(room string, m *mirror, rep reply, why func(entry) Reason, also ...string) View {
	c := change{Room: room, Version: rep.version, Members: rep.members, Founded: rep.founded}
	for _, e := range rep.left {
		c.Left = append(c.Left, Departure{Member: e.member(), Reason: why(e)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.remember(c.Left, r.remembrance())
	shown := c
	if r.completeLocked(m, &shown) {
		also = append(also, nodesOf(m.members)...)
	}
	for id, s := range m.own {
		if e, there := find(rep.members, id); there && e.Epoch == s.epoch && e.Node == r.id {
			m.own[id] = stay{epoch: e.Epoch, joined: e.Joined, settled: true, known: true}
		}
	}
	corrected := r.correctLocked(m, &shown)
	for _, d := range c.Left {
		delete(m.leaving, d.ID)
	}
	if rep.version > m.version {
		m.take(shown)
		m.ahead = m.ahead || corrected
	}
	m.touched = time.Now()
	r.tellLocked(c, also...) // What Redis holds: whom it lacks it may lack rightly.
	return shown.view(r.id)
}

// correctLocked makes what is shown of a change right about this node's own members: who has joined or left while Redis could not
// be told, or was taken out since others took this node for dead, is not seen to come and go because of that. It
// reports whether something was wrong; then the end of the change sees to it that the room is asserted.
func (r *Redis) correctLocked(m *mirror, shown *change) bool {
	members := slices.DeleteFunc(slices.Clone(shown.Members), func(e entry) bool { return m.isOver(e) || r.isHidden(m, e) })
	wrong := len(members) < len(shown.Members)
	for _, e := range m.members {
		s := m.own[e.ID]
		if _, there := find(members, e.ID); !there && s.settled && s.epoch == e.Epoch && shown.Version > s.joined {
			members, wrong = append(members, e), true
		}
	}
	if wrong {
		sortEntries(members)
		shown.Members = members
		r.dirty[shown.Room] = struct{}{}
	}
	return wrong
}

// isHidden reports whether a member of this node leaves and is not shown any more: it is not shown again.
func (r *Redis) isHidden(m *mirror, e entry) bool {
	_, own := m.own[e.ID]
	_, shown := find(m.members, e.ID)
	return e.Node == r.id && !own && !shown && m.leaving[e.ID].Epoch >= e.Epoch
}

// tellLocked queues a change for all other nodes that it concerns.
func (r *Redis) tellLocked(c change, also ...string) {
	nodes := map[string]bool{}
	for _, e := range c.Members {
		nodes[e.Node] = true
	}
	for _, d := range c.Left {
		nodes[d.Node] = true
	}
	for _, node := range also {
		nodes[node] = true
	}
	for node := range nodes { // Dead ones too, in case they are not.
		if node != r.id && node != "" {
			r.rumourLocked(node, time.Now())
			r.streamLocked(node).push(&record{kind: recordView, change: c})
		}
	}
}

// suspect has a room compared with Redis because what Redis holds of it is not known.
func (r *Redis) suspect(room string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty[room] = struct{}{}
}

// joinLocally joins with what this node knows.
func (r *Redis) joinLocally(room string, m *mirror, who Member, limit int, undo func()) (View, error) {
	r.mu.Lock()
	members := slices.DeleteFunc(slices.Clone(m.members), func(e entry) bool { return e.ID == who.ID })
	old, there := find(m.members, who.ID)
	if full := len(members) >= limit; full || there && old.Epoch >= who.Epoch {
		r.mu.Unlock()
		undo()
		if full {
			return View{}, fmt.Errorf("joining: %w", ErrRoomFull)
		}
		return View{}, fmt.Errorf("joining: %w", ErrStale)
	}
	defer r.mu.Unlock()
	var left []Departure
	if there {
		left = append(left, Departure{Member: old.member(), Reason: ReasonDisconnect})
	}
	version := r.localVersionLocked(m)
	m.own[who.ID] = stay{epoch: who.Epoch, joined: version, settled: true}
	return r.locallyLocked(room, m, append(members, entry{ID: who.ID, Node: r.id, Epoch: who.Epoch, Joined: version}), left), nil
}

func (r *Redis) moveLocally(room string, m *mirror, who Member, before stay) View {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.own[who.ID] = stay{epoch: who.Epoch, joined: before.joined, settled: true, known: before.known}
	members := slices.Clone(m.members)
	for i := range members {
		if members[i].ID == who.ID {
			members[i].Epoch, members[i].Node = who.Epoch, r.id
		}
	}
	return r.locallyLocked(room, m, members, nil)
}

// leaveLocally has a member leave whom Redis does not have, or that could not be told. The others are told who it is, not how the room
// stands, ahead of whatever this node says next: its clients know, and one may be with them before Redis does.
func (r *Redis) leaveLocally(room string, m *mirror, id string) View {
	r.mu.Lock()
	defer r.mu.Unlock()
	who := m.leaving[id]
	m.remember([]Departure{who}, r.remembrance())
	r.tellLocked(change{Room: room, Left: []Departure{who}}, nodesOf(m.members)...)
	members := slices.DeleteFunc(slices.Clone(m.members), func(e entry) bool { return e.member().Is(who.Member) })
	return r.locallyLocked(room, m, members, []Departure{who})
}

// locallyLocked changes the mirror alone and has Redis told when that is possible.
func (r *Redis) locallyLocked(room string, m *mirror, members []entry, left []Departure) View {
	m.version, m.members, m.ahead = r.localVersionLocked(m), members, false
	r.dirty[room] = struct{}{}
	return change{Room: room, Version: m.version, Members: members, Left: left}.view(r.id)
}

// localVersionLocked returns the next version of a room without asking Redis, whose next one is
// higher since it follows the clock.
func (r *Redis) localVersionLocked(m *mirror) uint64 {
	if m.version == 0 {
		return uint64(max(r.clock(time.Now()), 1))
	}
	return m.version + 1
}
