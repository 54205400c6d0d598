package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cline-meet/signal/signal/bench/measure"
)

// direction says who sends.
type direction string

const (
	echo direction = "echo" // Clients send and peers send all back.
	up   direction = "up"   // Clients send to peers.
	down direction = "down" // Peers send to clients.
)

// scenario is one load. The names are those of the table in the README.
type scenario struct {
	name    string
	about   string
	clients int
	rate    int // rate is packets a second of each client, 0 as many as arrive.
	size    int // size of the payload.
	way     direction
	train   int    // train is how many packets one GSO send holds, 0 for plain sends.
	flood   int    // flood is train of one more client, which sends as fast as it can; 0 for no such client.
	queue   int    // queue is how many packets of a client are under way when server and generator take turns, else 0.
	via     string // via is the transport of the clients, where it is not the one that was asked for.
	pair    bool   // pair says that peers are clients of the server as well, both with nothing but a relay.
}

const (
	cycles = "A1"
	idle   = "I8"
)

var scenarios = []scenario{
	{name: "S1", about: "calls: 50 clients x 50 packets/s x 160 B, echoed", clients: 50, rate: 50, size: 160, way: echo},
	{name: "S2", about: "video: 20 clients x 1000 packets/s x 1100 B, echoed", clients: 20, rate: 1000, size: 1100, way: echo},
	{name: "S3", about: "8 clients send 1100 B as fast as it arrives", clients: 8, size: 1100, way: up},
	{name: "S4", about: "8 peers send 1100 B as fast as it arrives", clients: 8, size: 1100, way: down},
	{name: "S3gg", about: "S3 in trains, as network cards merge them", clients: 8, size: 1100, way: up, train: 50},
	{name: "S4gg", about: "S4 in trains, as network cards merge them", clients: 8, size: 1100, way: down, train: 50},
	{name: "PAIR1", about: "calls: 25 pairs of clients x 50 packets/s x 160 B through both relays, echoed",
		clients: 25, rate: 50, size: 160, way: echo, pair: true},
	{name: "PAIR2", about: "video: 10 pairs of clients x 1000 packets/s x 1100 B through both relays, echoed",
		clients: 10, rate: 1000, size: 1100, way: echo, pair: true},
	{name: "PAIR3", about: "8 clients send 1100 B through both relays as fast as it arrives", clients: 8, size: 1100, way: up, pair: true},
	{name: "PAIR3gg", about: "PAIR3 in trains, as network cards merge them", clients: 8, size: 1100, way: up, train: 50, pair: true},
	{name: "TLS1", about: "S1 over TLS", clients: 50, rate: 50, size: 160, way: echo, via: "tls"},
	{name: "TLS2", about: "S2 over TLS", clients: 20, rate: 1000, size: 1100, way: echo, via: "tls"},
	{name: "TLS4", about: "S4 over TLS", clients: 8, size: 1100, way: down, via: "tls"},
	{name: "DTLS1", about: "S1 over DTLS", clients: 50, rate: 50, size: 160, way: echo, via: "dtls"},
	{name: "DTLS2", about: "S2 over DTLS", clients: 20, rate: 1000, size: 1100, way: echo, via: "dtls"},
	{name: "DTLS4", about: "S4 over DTLS", clients: 8, size: 1100, way: down, via: "dtls"},
	{name: "F1", about: "S1 beside one more client that floods", clients: 50, rate: 50, size: 160, way: echo, flood: 1},
	{name: "F1gg", about: "S1 beside one that floods in trains", clients: 50, rate: 50, size: 160, way: echo, flood: 50},
	{name: "F2", about: "S2 beside one more client that floods", clients: 20, rate: 1000, size: 1100, way: echo, flood: 1},
	{name: "F2gg", about: "S2 beside one that floods in trains", clients: 20, rate: 1000, size: 1100, way: echo, flood: 50},
	{name: "C3", about: "512 clients send 160 B, in turns with the server, which has all cores meanwhile",
		clients: 512, size: 160, way: up, queue: 8},
	{name: "C4", about: "512 peers send 1100 B, in turns with the server, which has all cores meanwhile",
		clients: 512, size: 1100, way: down, queue: 64},
	{name: cycles, about: "allocations made and released"},
	{name: idle, about: "8000 allocations without traffic", clients: 8000},
}

// saturates says whether a scenario sends as much as arrives.
func saturates(name string) bool {
	return slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name && s.rate == 0 })
}

// floods says whether a scenario has a client that floods.
func floods(name string) bool {
	return slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name && s.flood > 0 })
}

func names(of []scenario) []string {
	var all []string
	for _, s := range of {
		all = append(all, s.name)
	}
	return all
}

// pick returns the scenarios of a comma separated list, which may name groups:
// PAIR is PAIR1 and all others that a digit follows. "all" is every one.
func pick(list string) ([]scenario, error) {
	if list == "all" {
		return scenarios, nil
	}
	var picked []scenario
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		before := len(picked)
		for _, s := range scenarios {
			if strings.EqualFold(s.name, name) || strings.EqualFold(s.group(), name) {
				picked = append(picked, s)
			}
		}
		if len(picked) == before {
			return nil, fmt.Errorf("--scenario: there is no %q", name)
		}
	}
	return picked, nil
}

// group is the name up to its digit.
func (s scenario) group() string { return s.name[:strings.IndexAny(s.name, "123456789")] }

// withClients returns scenarios with another number of clients, where they have
// clients at all.
func withClients(of []scenario, clients int) []scenario {
	changed := slices.Clone(of)
	for i := range changed {
		if changed[i].clients > 0 {
			changed[i].clients = clients
		}
	}
	return changed
}

// result is what one run of a scenario against one server has found.
type result struct {
	Scenario string `json:"scenario"`
	Server   string `json:"server"`

	Seconds    float64 `json:"seconds"`
	Delivered  uint64  `json:"delivered,omitempty"` // Delivered counts packets at the far end, twice for an echo.
	Rate       float64 `json:"packets_per_second,omitempty"`
	CPU        float64 `json:"cpu_us_per_packet,omitempty"` // CPU is 0 when the server's process is not known.
	Load       float64 `json:"cpu_cores,omitempty"`
	Loss       float64 `json:"loss,omitempty"` // Loss is the part of what was sent that did not arrive.
	Lost       uint64  `json:"lost,omitempty"`
	Corrupt    uint64  `json:"corrupt,omitempty"`
	Reordered  uint64  `json:"reordered,omitempty"`
	P50        float64 `json:"p50_us,omitempty"` // Round trips for an echo, one way otherwise.
	P99        float64 `json:"p99_us,omitempty"`
	P999       float64 `json:"p999_us,omitempty"`
	P99Alone   float64 `json:"p99_alone_us,omitempty"` // P99Alone is without the flood.
	Cycles     float64 `json:"cycles_per_second,omitempty"`
	CycleCPU   float64 `json:"cpu_us_per_cycle,omitempty"`
	Idle       float64 `json:"bytes_per_allocation,omitempty"`
	AfterwardB float64 `json:"bytes_kept_per_allocation,omitempty"` // AfterwardB is what is left of Idle after all are released.
}

// setPercentiles tells how long packets took.
func (r *result) setPercentiles(samples []time.Duration) {
	p := measure.Percentiles(samples, .5, .99, .999)
	r.P50, r.P99, r.P999 = p[0], p[1], p[2]
}
