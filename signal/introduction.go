package signal

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// An Introduction tells a person who starts a node what runs and where. What is empty is left out.
type Introduction struct {
	Version string
	Pages   []string   // URLs of the page
	ICE     [][]string // URLs of each ICE server
	Relay   string
	State   string
	Metrics string
}

// Print writes the introduction, a line for each thing.
func (in Introduction) Print(w io.Writer) {
	line := func(what string, texts ...string) {
		for _, text := range texts {
			if text != "" {
				_, _ = fmt.Fprintf(w, "  %-8s %s\n", what, text)
			}
		}
	}
	_, _ = fmt.Fprintf(w, "signal %s: WebRTC signaling and TURN\n\n", in.Version)
	line("page", in.Pages...)
	for _, urls := range in.ICE {
		line("ICE", strings.Join(urls, "  "))
	}
	line("relay", in.Relay)
	line("state", in.State)
	line("metrics", in.Metrics)
	_, _ = fmt.Fprintln(w)
}

// Pages returns the URLs, and the hosts in them, under which the browsers of this machine, and others
// if the machine is known to them as lan, reach the page.
func (s *Server) Pages(lan netip.Addr) (urls, hosts []string) {
	scheme, addr := "http", s.Addr().(*net.TCPAddr)
	if s.cfg.TLS != nil {
		scheme = "https"
	}
	switch {
	case addr.IP.IsLoopback():
		hosts = []string{"localhost"}
	case !addr.IP.IsUnspecified():
		hosts = []string{addr.IP.String()}
	case !lan.IsValid() || lan.IsLoopback():
		hosts = []string{"localhost"}
	default:
		hosts = []string{"localhost", lan.String()}
	}
	for _, host := range hosts {
		urls = append(urls, scheme+"://"+net.JoinHostPort(host, strconv.Itoa(addr.Port))+"/")
	}
	return urls, hosts
}
