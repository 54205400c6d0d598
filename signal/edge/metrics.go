package edge

import (
	"errors"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for which a connection is refused at the edge.
const (
	refusedNoHeader  = "no_header"
	refusedStranger  = "stranger"
	refusedHeader    = "header"
	refusedSilent    = "silent"
	refusedHandshake = "handshake"
	refusedClosed    = "closed"
)

// newRefusals counts connections that no part has got, by reason.
func newRefusals(r prometheus.Registerer) *prometheus.CounterVec {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_edge_refused_total", Help: "Connections that ended before it was known what they are for.",
	}, []string{"reason"})
	if r != nil {
		r.MustRegister(refused)
	}
	return refused
}

// reasonOf returns why a connection was refused, empty when it got what it wanted.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errAnswered):
		return ""
	case errors.Is(err, errNoHeader):
		return refusedNoHeader
	case errors.Is(err, errStranger):
		return refusedStranger
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusedSilent
	case errors.Is(err, errHandshake):
		return refusedHandshake
	case isEnd(err):
		return refusedClosed
	}
	return refusedHeader
}
