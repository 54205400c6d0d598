package admin

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// patience is how long the nodes have for an answer. One that is well answers in milliseconds, and one that has died is found out within it.
const patience = 3 * time.Second

// topics are what nodes ask each other, by name, and how a node answers from what it knows itself, JSON for JSON.
type topics map[string]func(ctx context.Context, text []byte) []byte

func (t topics) answer(ctx context.Context, name string, text []byte) []byte {
	if answer := t[name]; answer != nil {
		return answer(ctx, text)
	}
	return nil // It is of a newer version. What is empty is no JSON, so who asks misses the answer.
}

// topic is one of them, with the types of its questions and answers.
type topic[Q, A any] struct{ name string }

// on has a topic answered by a function.
func (t topic[Q, A]) on(all topics, answer func(ctx context.Context, q Q) A) {
	all[t.name] = func(ctx context.Context, text []byte) []byte {
		var q Q
		if json.Unmarshal(text, &q) != nil {
			return nil
		}
		out, _ := json.Marshal(answer(ctx, q)) // Plain fields always encode.
		return out
	}
}

// ask returns what one node answers.
func (t topic[Q, A]) ask(ctx context.Context, s *Server, node string, q Q) (a A, err error) {
	text, _ := json.Marshal(q) // Plain fields always encode.
	var out []byte
	if node == s.parts.State.ID() {
		out = s.topics.answer(ctx, t.name, text)
	} else if out, err = s.parts.Signal.Ask(ctx, node, t.name, text); err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

// answers are those of all nodes to one question. Missing are the nodes that did not answer in time.
type answers[A any] struct {
	of      map[string]A
	missing []string
}

// each visits the answers by the names of the nodes.
func (a answers[A]) each(visit func(node string, answer A)) {
	var nodes []string
	for node := range a.of {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		visit(node, a.of[node])
	}
}

// askAll asks every node at once, this one included.
func (t topic[Q, A]) askAll(ctx context.Context, s *Server, q Q) answers[A] {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out := answers[A]{of: map[string]A{}, missing: []string{}}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, node := range append(s.others(), s.parts.State.ID()) {
		asking.Go(func() {
			a, err := t.ask(ctx, s, node, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.parts.Log.Debug("asking a node", "node", node, "topic", t.name, "error", err)
				out.missing = append(out.missing, node)
				return
			}
			out.of[node] = a
		})
	}
	asking.Wait()
	slices.Sort(out.missing)
	return out
}

// others returns the nodes beside this one.
func (s *Server) others() []string {
	var nodes []string
	for _, n := range s.parts.State.Nodes() {
		if n.ID != s.parts.State.ID() {
			nodes = append(nodes, n.ID)
		}
	}
	return nodes
}
