package signal

import (
	"context"
	"encoding/json"

	"cline-meet/signal/state"
)

// The owner talks to one node and means all of them: what that node does not know, or cannot do, it asks the others.
//
//	question  a topic and what is asked, in JSON
//	reply     what the node says to it, in JSON
//
// A node that does not know questions skips them, so who asks must not wait for ever.
const (
	opQuestion = "question"
	opReply    = "reply"
)

// question is what a question message carries.
type question struct {
	Ask   string          `json:"ask"` // names the question in the reply
	Topic string          `json:"topic"`
	Text  json.RawMessage `json:"text,omitempty"`
}

// Answer has a function answer the questions of other nodes, each in a goroutine of its own. It is called before the state has
// the server's Events.
func (s *Server) Answer(answer func(ctx context.Context, topic string, text []byte) []byte) {
	s.reply = answer
}

// Ask returns what another node answers to a question, whose text is JSON or empty. It fails with state.ErrNoNode when the node is
// dead and with state.ErrUnavailable when no answer comes before ctx ends.
func (s *Server) Ask(ctx context.Context, node, topic string, text []byte) ([]byte, error) {
	return s.request(ctx, node, func(id string) state.Message {
		frame, _ := json.Marshal(question{id, topic, text}) // It is valid JSON.
		return state.Message{Op: opQuestion, Frame: frame}
	})
}

// maxAnswers is how many questions of other nodes are answered at a time. With more they are dropped, and who asks names the node as one that
// has not answered.
const maxAnswers = 64

// onQuestion has another node answered. It does not block.
func (s *Server) onQuestion(m state.Message) {
	if s.answering.Add(1) > maxAnswers {
		s.answering.Add(-1)
		s.cfg.Logger.Debug("too many questions", "node", m.Node)
		return
	}
	s.tasks.run(func() {
		defer s.answering.Add(-1)
		s.answerNode(m)
	})
}

// answerNode answers another node.
func (s *Server) answerNode(m state.Message) {
	var q question
	if err := json.Unmarshal(m.Frame, &q); err != nil || s.reply == nil {
		s.cfg.Logger.Warn("reading a question", "node", m.Node, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, stateTimeout)
	defer cancel()
	reply := state.Message{Op: opReply, To: q.Ask, Frame: s.reply(ctx, q.Topic, q.Text)}
	if err := s.sendTo(ctx, m.Node, reply); err != nil {
		s.cfg.Logger.Debug("answering a question", "node", m.Node, "topic", q.Topic, "error", err)
	}
}
