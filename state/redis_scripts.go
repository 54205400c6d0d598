package state

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var lua embed.FS

// The scripts. Those of rooms share their beginning.
var (
	joinScript    = roomScript("join")
	moveScript    = roomScript("move")
	leaveScript   = roomScript("leave")
	assertScript  = roomScript("assert")
	reapScript    = roomScript("reap")
	leaseScript   = redis.NewScript(source("lease"))
	declareScript = redis.NewScript(source("declare"))
	releaseScript = redis.NewScript(source("release"))
	forgetScript  = redis.NewScript(source("forget"))
	rotateScript  = redis.NewScript(source("rotate"))
	lockScript    = redis.NewScript(source("lock"))
	unlockScript  = redis.NewScript(source("unlock"))
)

func source(name string) string {
	text, err := lua.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // The file is part of the executable.
	}
	return string(text)
}

func roomScript(name string) *redis.Script {
	return redis.NewScript(source("room") + source(name))
}

// entry is a member as Redis holds it.
type entry struct {
	ID     string `json:"i"`
	Node   string `json:"n"`
	Epoch  uint64 `json:"e"`
	Joined uint64 `json:"j"` // Joined is the room's version at the join: the join order.
}

func (e entry) member() Member {
	return Member(e)
}

// isBefore reports whether an entry is of an older connection than another of the same user, or of a former stay.
func (e entry) isBefore(o entry) bool {
	return e.Epoch < o.Epoch || e.Epoch == o.Epoch && e.Joined < o.Joined
}

// NewNodeID returns an id that no other node ever had. It is short: a longer one would make a member in Redis,
// with 20 digits of an epoch and 16 of a version, more than the 64 bytes up to which a hash stays compact.
func NewNodeID() string { return rand.Text()[:16] }

// epochText writes an epoch so that epochs compare as text.
func epochText(epoch uint64) string { return fmt.Sprintf("%020d", epoch) }

// reply is a room as a script left it.
type reply struct {
	status  string
	version uint64
	changed bool
	left    []entry
	members []entry
	founded uint64 // the version at which Redis' copy of the room began, 0 when that is not known
	back    []any  // of an assertion: the ids of the caller's members that others had taken out
	over    []any  // of an assertion: the ids of those that others had taken out for good
}

var errReply = errors.New("unexpected reply of a script")

func parseReply(raw any) (reply, error) {
	fields, ok := raw.([]any)
	if !ok || len(fields) == 0 {
		return reply{}, errReply
	}
	status, _ := fields[0].(string)
	r := reply{status: status}
	if len(fields) == 1 {
		return r, nil
	}
	if len(fields) < 6 {
		return reply{}, errReply
	}
	version, _ := fields[1].(string)
	changed, _ := fields[2].(int64)
	r.changed = changed == 1
	var errs [4]error
	founded, _ := fields[5].(string)
	r.founded, errs[3] = strconv.ParseUint(founded, 10, 64)
	r.version, errs[0] = strconv.ParseUint(version, 10, 64)
	r.left, errs[1] = parseEntries(fields[3])
	r.members, errs[2] = parseEntries(fields[4])
	if len(fields) > 7 {
		r.back, _ = fields[6].([]any)
		r.over, _ = fields[7].([]any)
	}
	return r, errors.Join(errs[:]...)
}

// parseEntries reads (id, "EPOCH JOINED NODE") pairs into join order.
func parseEntries(raw any) ([]entry, error) {
	fields, _ := raw.([]any)
	var out []entry
	for i := 0; i+1 < len(fields); i += 2 {
		id, _ := fields[i].(string)
		text, _ := fields[i+1].(string)
		parts := strings.SplitN(text, " ", 3)
		if len(parts) != 3 {
			return nil, errReply
		}
		epoch, bad := strconv.ParseUint(parts[0], 10, 64)
		joined, worse := strconv.ParseUint(parts[1], 10, 64)
		if bad != nil || worse != nil {
			return nil, errReply
		}
		out = append(out, entry{ID: id, Node: parts[2], Epoch: epoch, Joined: joined})
	}
	sortEntries(out)
	return out, nil
}

func sortEntries(members []entry) {
	slices.SortFunc(members, func(a, b entry) int {
		if a.Joined != b.Joined {
			return int(int64(a.Joined) - int64(b.Joined))
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// roomKey is the room's hash; the braces make it one slot of a Cluster.
func (r *Redis) roomKey(room string) string { return r.cfg.Prefix + "{r:" + room + "}" }

// channel is where a node listens.
func (r *Redis) channel(node string) string { return r.channelOf(node, r.tag(node)) }

func (r *Redis) channelOf(node, tag string) string {
	if tag != "" {
		node += ":" + tag
	}
	return r.cfg.Prefix + "{n:" + node + "}"
}

// directoryKeys are what the lease script works on, all in one slot of a Cluster.
func directoryKeys(prefix string) []string {
	nodes := prefix + "nodes"
	tagged := prefix + "{" + nodes + "}:"
	return []string{nodes, tagged + "info", tagged + "dead", tagged + "secrets"}
}

// change runs a script on a room. It fails with ErrUnavailable when the outcome is unknown; then
// the script has no effect after now + opTimeout.
func (r *Redis) change(ctx context.Context, kind string, script *redis.Script, room string, floor uint64, args ...any) (reply, error) {
	if err := r.usable(r.roomKey(room)); err != nil {
		return reply{}, err
	}
	select {
	case r.scripts <- struct{}{}:
		defer func() { <-r.scripts }()
	case <-ctx.Done():
		return reply{}, fmt.Errorf("waiting for a turn: %w", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	head := []any{r.clock(deadline), max(floor, r.floor.Load()), r.roomTTL().Milliseconds(), r.cfg.Lease.Milliseconds(), r.id}
	r.metrics.trips.WithLabelValues(kind).Inc()
	raw, err := r.runIndexed(ctx, kind, script, room, append(head, args...))
	if err != nil {
		return reply{}, r.failed(ctx, kind, err)
	}
	out, err := parseReply(raw)
	if err != nil {
		return reply{}, fmt.Errorf("reading the reply to %s: %w", kind, err)
	}
	if out.status == "late" {
		return reply{}, fmt.Errorf("too late to %s: %w", kind, ErrUnavailable)
	}
	r.raise(out.version)
	return out, nil
}

// clock translates a time of this machine to Redis' clock, in µs. It does not follow this machine's
// clock when that is set.
func (r *Redis) clock(t time.Time) int64 { return t.Sub(r.started).Microseconds() + r.skew.Load() }

// raise notes a version that every later one must exceed.
func (r *Redis) raise(version uint64) {
	for {
		old := r.floor.Load()
		if old >= version || r.floor.CompareAndSwap(old, version) {
			return
		}
	}
}

// failed says what an error of an operation means: the contract's ErrUnavailable and, unless it was
// the caller who gave up or there were too many of us, that Redis is away, or a part of it.
func (r *Redis) failed(ctx context.Context, kind string, err error) error {
	gaveUp := errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, redis.ErrPoolTimeout)
	if !gaveUp && !r.ofPart(err) {
		r.trip(fmt.Errorf("%s: %w", kind, err))
	}
	return fmt.Errorf("%s: %w: %w", kind, ErrUnavailable, err)
}
