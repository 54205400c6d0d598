// Package check tries a deployment from outside, as a user's network sees it, and says what is wrong with it and what to
// change: names, certificates, signaling, and STUN and TURN servers, also those of others.
package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Mark is how a check has ended.
type Mark string

// The marks.
const (
	Good    Mark = "ok"
	Wrong   Mark = "wrong"
	Skipped Mark = "skipped" // Skipped is what could not be tried, or says no more than another check.
)

// A Result is what came of one check.
type Result struct {
	Target string `json:"target"` // Target is the server that was tried.
	Name   string `json:"check"`
	Mark   Mark   `json:"mark"`
	Detail string `json:"detail,omitempty"` // Detail is what was found, or why not.
	Remedy string `json:"remedy,omitempty"` // Remedy is what to change.
}

// step is one check: what it is called, what tries it, and what to do when that fails.
type step struct {
	name   string
	remedy string
	run    func(context.Context) (detail string, err error)

	needs []*step // needs are what must be good before it can be tried.
	like  []*step // like are what explains its failure if they fail too.

	done   chan struct{} // done is closed when the rest is there.
	failed bool          // failed says that it was tried in vain, whoever is at fault.
	result Result
}

// fault is an error with a remedy of its own.
type fault struct{ reason, remedy string }

func (f *fault) Error() string { return f.reason }

func faultf(remedy, format string, args ...any) error {
	return &fault{fmt.Sprintf(format, args...), remedy}
}

// untried is why something could not be tried although nothing is wrong.
type untried string

func (u untried) Error() string { return string(u) }

// plan is the checks of one target. They run as soon as what they need is good.
type plan struct {
	target  string
	steps   []*step
	running sync.WaitGroup
}

// add adds a check, which begins with start.
func (p *plan) add(name, remedy string, run func(context.Context) (string, error), needs ...*step) *step {
	s := &step{name: name, remedy: remedy, run: run, needs: needs, done: make(chan struct{})}
	p.steps = append(p.steps, s)
	return s
}

// explainedBy names what would make a check fail without being at fault itself.
func (s *step) explainedBy(others ...*step) *step {
	s.like = append(s.like, others...)
	return s
}

func (p *plan) start(ctx context.Context) {
	for _, s := range p.steps {
		p.running.Go(func() {
			defer close(s.done)
			s.result = s.conclude(ctx)
			s.result.Target, s.result.Name = p.target, s.name
		})
	}
}

// wait waits for all checks and returns their results in the order in which they were added.
func (p *plan) wait() (results []Result) {
	p.running.Wait()
	for _, s := range p.steps {
		results = append(results, s.result)
	}
	return results
}

// mark waits for a check.
func (s *step) mark() Mark {
	<-s.done
	return s.result.Mark
}

// conclude runs a check. One thing that is wrong is marked once: what fails because of it is skipped.
func (s *step) conclude(ctx context.Context) Result {
	for _, other := range s.needs {
		if other.mark() != Good {
			return Result{Mark: Skipped, Detail: "not tried: see " + other.name}
		}
	}
	detail, err := s.run(ctx)
	var skip untried
	switch {
	case err == nil:
		return Result{Mark: Good, Detail: detail}
	case errors.As(err, &skip):
		return Result{Mark: Skipped, Detail: string(skip)}
	}
	s.failed = true
	for _, other := range s.like {
		if <-other.done; other.failed {
			return Result{Mark: Skipped, Detail: fmt.Sprintf("%v: see %s", err, other.name)}
		}
	}
	result := Result{Mark: Wrong, Detail: err.Error(), Remedy: s.remedy}
	var f *fault
	if errors.As(err, &f) && f.remedy != "" {
		result.Remedy = f.remedy
	}
	return result
}
