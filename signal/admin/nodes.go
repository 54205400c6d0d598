package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// node is one process of the deployment.
type node struct {
	ID          string    `json:"id"`
	Version     string    `json:"version"`
	Since       time.Time `json:"since" doc:"When the process began to serve."`
	Draining    bool      `json:"draining" doc:"It wants nobody new."`
	Ready       bool      `json:"ready" doc:"It takes new users."`
	Problems    []string  `json:"problems" nullable:"false" doc:"What does not work although it takes users."`
	Connections int       `json:"connections"`
	Rooms       int       `json:"rooms" doc:"Rooms in which the node has members."`
	Allocations int       `json:"allocations"`
	TURN        []string  `json:"turn" nullable:"false" doc:"The URLs of its TURN server."`
	LogLevel    string    `json:"log_level" enum:"debug,info,warn,error"`
}

// nothing is a question or an answer without a content.
type nothing struct{}

// done says whether a node has done what it was asked for, and why not.
type done struct {
	Problem string `json:"problem,omitempty"`
}

var (
	aboutNode  = topic[nothing, node]{"node"}
	aboutDrain = topic[nothing, done]{"drain"}
	aboutLevel = topic[string, done]{"log-level"}
)

// NodePath names a node.
type NodePath struct {
	Node string `path:"node" maxLength:"64" doc:"The node's id."`
}

func (s *Server) registerNodes(api huma.API) {
	const tag = "nodes"
	huma.Register(api, operation(http.MethodGet, "/v1/nodes", "list-nodes", tag, "List the nodes of the deployment"), s.listNodes)
	huma.Register(api, operation(http.MethodPost, "/v1/nodes/{node}/drain", "drain-node", tag,
		"Have a node take nobody new and send its clients to the others", http.StatusNotFound, http.StatusServiceUnavailable), s.drainNode)
	huma.Register(api, operation(http.MethodPut, "/v1/nodes/{node}/log-level", "set-log-level", tag,
		"Set how much a node logs, until it restarts or reloads", http.StatusNotFound, http.StatusServiceUnavailable), s.setLevel)
	huma.Register(api, operation(http.MethodPost, "/v1/secrets/{name}/rotate", "rotate-secret", tag,
		"Make a new secret that the nodes generate; the one before stays valid", http.StatusConflict), s.rotateSecret)
}

func (s *Server) listNodes(ctx context.Context, _ *nothing) (*response[list[node]], error) {
	all := aboutNode.askAll(ctx, s, nothing{})
	nodes := []node{}
	all.each(func(_ string, n node) { nodes = append(nodes, n) })
	return answer(list[node]{Items: nodes, MissingNodes: all.missing}), nil
}

func (s *Server) ownNode(context.Context, nothing) node {
	p := s.parts
	reasons, problems := p.Signal.Readiness()
	for part, reason := range reasons {
		problems = append(problems, part+": "+reason)
	}
	slices.Sort(problems)
	return node{ID: p.State.ID(), Version: p.Version, Since: s.begun, Draining: p.Signal.Leaving(), Ready: len(reasons) == 0, Problems: append([]string{}, problems...),
		Connections: p.Signal.Connections(), Rooms: len(p.Signal.Rooms()), Allocations: p.TURN.Allocations(), TURN: append([]string{}, p.URLs()...),
		LogLevel: strings.ToLower(p.Level.Level().String())}
}

// knows reports whether there is a node of that id.
func (s *Server) knows(id string) bool {
	return id == s.parts.State.ID() || slices.Contains(s.others(), id)
}

// at asks one node to do something.
func at[Q any](ctx context.Context, s *Server, t topic[Q, done], id string, q Q) error {
	if !s.knows(id) {
		return huma.Error404NotFound("there is no node " + id)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := t.ask(ctx, s, id, q)
	if err != nil {
		return huma.Error503ServiceUnavailable("node " + id + " has not answered")
	}
	if out.Problem != "" {
		return huma.Error409Conflict(out.Problem)
	}
	return nil
}

func (s *Server) drainNode(ctx context.Context, in *NodePath) (*nothing, error) {
	return nil, at(ctx, s, aboutDrain, in.Node, nothing{})
}

func (s *Server) drainOwn(context.Context, nothing) done {
	s.drains.Go(func() { s.parts.Drain(s.ctx) })
	return done{}
}

func (s *Server) setLevel(ctx context.Context, in *struct {
	NodePath
	Body struct {
		Level string `json:"level" enum:"debug,info,warn,error"`
	}
}) (*nothing, error) {
	return nil, at(ctx, s, aboutLevel, in.Node, in.Body.Level)
}

func (s *Server) setOwnLevel(_ context.Context, level string) done {
	if err := s.parts.Level.UnmarshalText([]byte(level)); err != nil {
		return done{err.Error()}
	}
	return done{}
}

func (s *Server) rotateSecret(ctx context.Context, in *struct {
	Name string `path:"name" enum:"session-secret,turn-secret"`
}) (*nothing, error) {
	if err := s.parts.Rotate(ctx, in.Name); err != nil {
		return nil, huma.Error409Conflict(err.Error())
	}
	return nil, nil
}
