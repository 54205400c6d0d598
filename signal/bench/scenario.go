package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The names of the scenarios.
const (
	idle      = "idle"
	saturated = "saturated"
	paced     = "paced"
	half      = "half"
	trickle   = "trickle"
	storm     = "storm"
	slow      = "slow"
	churn     = "churn"
)

// scenario is one load.
type scenario struct {
	name    string
	about   string
	clients int
	rate    int           // rate is how many messages all clients send in a second; 0 for as many as arrive.
	window  int           // window is how many messages of a client are under way where the rate is 0.
	readers int           // readers is how many clients there are that stop to read.
	perRoom int           // perRoom is how many clients a room has.
	settle  time.Duration // settle is what a server gets to become idle.
	watch   time.Duration // watch is how long it is watched then.
}

var scenarios = []scenario{
	{name: idle, about: "4000 clients in rooms of two that say nothing: memory of a connection, and CPU",
		clients: 4000, settle: 10 * time.Second, watch: 30 * time.Second},
	{name: saturated, about: "64 clients send offers of 1 KB as fast as they arrive, 4 under way each", clients: 64, window: 4},
	{name: paced, about: "64 clients send 4000 offers of 1 KB a second", clients: 64, rate: 4000},
	{name: half, about: "64 clients send half as many as when saturated", clients: 64, window: 4},
	{name: trickle, about: "32 pairs whose calls begin: join, offer, answer and 10 candidates each, with ids; 4000 messages a second",
		clients: 64, rate: 4000},
	{name: storm, about: "500 rooms whose 10 clients join at once: time until all have seen all", clients: 5000, perRoom: 10},
	{name: slow, about: "4000 offers a second of 64 clients beside 1000 that stop to read, and before they did",
		clients: 64, rate: 4000, readers: 1000},
	{name: churn, about: "200 clients join, send, lose their connection, resume and leave at random", clients: 200, rate: 2000},
}

// suits reports whether a scenario can be run against servers of a dialect.
func (s scenario) suits(d *dialect) bool {
	switch s.name {
	case storm, churn:
		return d.rooms
	case slow, trickle:
		return !d.alone
	}
	return true
}

func describe() string {
	var b strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&b, "  %-9s %s\n", s.name, s.about)
	}
	return b.String()
}

func names(of []scenario) []string {
	var all []string
	for _, s := range of {
		all = append(all, s.name)
	}
	return all
}

// pick returns the scenarios of a comma separated list; "all" is every one.
func pick(list string) ([]scenario, error) {
	if list == "all" {
		return slices.Clone(scenarios), nil
	}
	var picked []scenario
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return strings.EqualFold(s.name, strings.TrimSpace(name)) })
		if i < 0 {
			return nil, fmt.Errorf("--scenario: there is no %q", name)
		}
		picked = append(picked, scenarios[i])
	}
	return picked, nil
}

// resize changes the number of clients, and the rate of scenarios that have one, unless they are 0.
func resize(of []scenario, clients, rate int) {
	for i := range of {
		s := &of[i]
		if clients > 0 {
			s.clients = clients
		}
		if rate > 0 && s.rate > 0 {
			s.rate = rate
		}
	}
}
