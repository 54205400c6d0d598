package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/urfave/cli/v2"
)

// Command returns `signal admin`, which asks and commands a running deployment through the API of one of its nodes.
func Command(stdout, stderr io.Writer) *cli.Command {
	t := &tool{out: stdout, err: stderr}
	return &cli.Command{
		Name:  "admin",
		Usage: "Ask and command a running deployment",
		Description: "It speaks to the admin address of one node, which answers for all of them. Tables are for people, --json is what\n" +
			"the API says. Commands that change something need a token of the write role, or the node's socket.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "admin-addr", Usage: "`HOST:PORT`, unix:PATH or URL of the node", EnvVars: []string{"ADMIN_ADDR"}, Value: DefaultConfig().Addr, Destination: &t.addr},
			&cli.StringFlag{Name: "admin-token", Usage: "`TOKEN` of the node; of several the first is used", EnvVars: []string{"ADMIN_TOKEN"}, Destination: &t.token},
			&cli.BoolFlag{Name: "json", Usage: "print what the API says", Destination: &t.json},
		},
		Subcommands: append(t.lists(), t.deeds()...),
	}
}

// tool is one run of the command.
type tool struct {
	addr, token string
	json        bool
	out, err    io.Writer
}

func (t *tool) api() *api {
	first, _, _ := strings.Cut(t.token, ",")
	return newAPI(t.addr, strings.TrimSpace(first))
}

// lists are the commands that show something.
func (t *tool) lists() []*cli.Command {
	var room, user string
	return []*cli.Command{
		{Name: "rooms", Usage: "List the rooms with their members, or one", ArgsUsage: "[ROOM]", Action: func(c *cli.Context) error {
			if id := c.Args().First(); id != "" {
				return show(c.Context, t, "/v1/rooms/"+url.PathEscape(id), roomColumns, roomRow)
			}
			return showAll(c.Context, t, "/v1/rooms", nil, roomColumns, roomRow)
		}},
		{Name: "users", Usage: "List the users with their connections, or one", ArgsUsage: "[USER]",
			Flags: []cli.Flag{&cli.StringFlag{Name: "room", Usage: "only those in `ROOM`", Destination: &room}},
			Action: func(c *cli.Context) error {
				if id := c.Args().First(); id != "" {
					return show(c.Context, t, "/v1/users/"+url.PathEscape(id), userColumns, userRow)
				}
				return showAll(c.Context, t, "/v1/connections", only("room", room), userColumns, userRow)
			}},
		{Name: "relays", Usage: "List the relays with their users and rooms",
			Flags: []cli.Flag{&cli.StringFlag{Name: "user", Usage: "only those of `USER`", Destination: &user}},
			Action: func(c *cli.Context) error {
				return showAll(c.Context, t, "/v1/allocations", only("user", user), relayColumns, relayRow)
			}},
		{Name: "nodes", Usage: "List the nodes", Action: func(c *cli.Context) error {
			return showAll(c.Context, t, "/v1/nodes", nil, nodeColumns, nodeRow)
		}},
	}
}

func only(name, value string) url.Values {
	query := url.Values{}
	if value != "" {
		query.Set(name, value)
	}
	return query
}

const (
	roomColumns  = "ROOM\tUSERS\tMEMBERS"
	userColumns  = "USER\tROOM\tNODE\tADDRESS\tVIA\tSTATE\tFOR\tNAME"
	relayColumns = "RELAY\tUSER\tROOM\tCLIENT\tVIA\tPORTS\tOUT\tIN\tFOR"
	nodeColumns  = "NODE\tVERSION\tSTATE\tCONNECTIONS\tROOMS\tRELAYS\tFOR"
)

func roomRow(r room) []string {
	var members []string
	for _, m := range r.Members {
		members = append(members, m.UserID)
	}
	return []string{r.ID, strconv.Itoa(len(members)), strings.Join(members, " ")}
}

func userRow(c connection) []string {
	state := "connected"
	if !c.Connected {
		state = "away"
	}
	return []string{c.UserID, c.Room, c.Node, c.Address, c.Transport, state, ago(c.Since), c.Name}
}

func relayRow(a allocation) []string {
	return []string{a.ID, a.UserID, a.Room, a.Client, a.Transport, strings.Join(a.Relays, " "), size(a.BytesToPeers), size(a.BytesFromPeers), ago(a.Since)}
}

func nodeRow(n node) []string {
	state := "ready"
	switch {
	case n.Draining:
		state = "draining"
	case !n.Ready:
		state = "not ready"
	case len(n.Problems) > 0:
		state = "impaired"
	}
	return []string{n.ID, n.Version, state, strconv.Itoa(n.Connections), strconv.Itoa(n.Rooms), strconv.Itoa(n.Allocations), ago(n.Since)}
}

// showAll prints every page of a list.
func showAll[T any](ctx context.Context, t *tool, path string, query url.Values, columns string, row func(T) []string) error {
	l, err := all[T](ctx, t.api(), path, query)
	if err != nil {
		return err
	}
	for _, node := range l.MissingNodes {
		_, _ = fmt.Fprintf(t.err, "node %s has not answered: what it knows is missing\n", node)
	}
	if t.json {
		return json.NewEncoder(t.out).Encode(l)
	}
	return table(t.out, columns, l.Items, row)
}

// show prints one thing.
func show[T any](ctx context.Context, t *tool, path, columns string, row func(T) []string) error {
	text, err := t.api().do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	var item T
	if err := json.Unmarshal(text, &item); err != nil || t.json {
		_, wrong := t.out.Write(text)
		return errors.Join(err, wrong)
	}
	return table(t.out, columns, []T{item}, row)
}

func table[T any](w io.Writer, columns string, items []T, row func(T) []string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, columns)
	for _, item := range items {
		_, _ = fmt.Fprintln(tw, plain(strings.Join(row(item), "\t")))
	}
	return tw.Flush()
}

// plain takes out what would command a terminal: names are whatever their users like.
func plain(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, line)
}

// deeds are the commands that change something.
func (t *tool) deeds() []*cli.Command {
	return []*cli.Command{
		t.deed("kick", "Kick a user: socket, way back and relays end", "USER", http.MethodPost, "/v1/users/%s/kick"),
		t.deed("revoke", "End a user's relays and refuse the TURN credentials that the user has", "USER", http.MethodPost, "/v1/users/%s/revoke"),
		t.deed("end", "End one relay; its user may make another", "RELAY", http.MethodDelete, "/v1/allocations/%s"),
		t.deed("close", "Close a room: every member is kicked", "ROOM", http.MethodDelete, "/v1/rooms/%s"),
		t.deed("drain", "Have a node take nobody new and send its clients to the others", "NODE", http.MethodPost, "/v1/nodes/%s/drain"),
		t.deed("rotate", "Make a new secret that the nodes generate, session-secret or turn-secret", "SECRET", http.MethodPost, "/v1/secrets/%s/rotate"),
		t.deedWith("log-level", "Set how much a node logs: debug, info, warn or error", "NODE LEVEL", http.MethodPut, "/v1/nodes/%s/log-level",
			func(level string) (any, error) { return map[string]string{"level": level}, nil }),
		t.deedWith("tell-room", "Send an app message, which is JSON, to all members of a room", "ROOM DATA", http.MethodPost, "/v1/rooms/%s/messages", data),
		t.deedWith("tell-user", "Send an app message, which is JSON, to one user", "USER DATA", http.MethodPost, "/v1/users/%s/messages", data),
	}
}

func data(text string) (any, error) {
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("%s is not JSON: a text needs quotes, as in '\"hello\"'", text)
	}
	return message{json.RawMessage(text)}, nil
}

func (t *tool) deed(name, usage, args, method, path string) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: args, Action: func(c *cli.Context) error {
		return t.act(c, args, method, path, nil)
	}}
}

// deedWith is one whose second argument makes the body.
func (t *tool) deedWith(name, usage, args, method, path string, body func(string) (any, error)) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: args, Action: func(c *cli.Context) error {
		return t.act(c, args, method, path, body)
	}}
}

func (t *tool) act(c *cli.Context, args, method, path string, body func(string) (any, error)) error {
	if want := len(strings.Fields(args)); c.NArg() != want {
		return fmt.Errorf("give %s, and nothing else", args)
	}
	var content any
	if body != nil {
		var err error
		if content, err = body(c.Args().Get(1)); err != nil {
			return err
		}
	}
	text, err := t.api().do(c.Context, method, fmt.Sprintf(path, url.PathEscape(c.Args().First())), content)
	if err != nil {
		return err
	}
	if t.json || len(text) == 0 {
		_, err = t.out.Write(text)
		return err
	}
	return tellNumbers(t.out, text)
}

// tellNumbers prints the numbers of an answer as a line.
func tellNumbers(w io.Writer, text []byte) error {
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		return err
	}
	for _, name := range []string{"kicked", "relays", "receivers"} {
		if n, ok := out[name]; ok {
			_, _ = fmt.Fprintf(w, "%s: %v\n", name, n)
		}
	}
	if nodes, _ := out["missing_nodes"].([]any); len(nodes) > 0 {
		return fmt.Errorf("no answer in time of nodes %v: do it again", nodes)
	}
	return nil
}
