package signal

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"cline-meet/signal/signal/setting"
)

// Whether a node can be reached as it tells clients, nobody inside can say. The page of the first browser that comes from another machine
// can: it asks whether the node wants to know, tries to get a relay over UDP and one over TCP, and tells. What it tells, and what
// address and host it comes by, is held against the address of relays, and what contradicts is logged, once. Anybody may be that
// browser, so nothing follows from it but a line for who runs the node.

// outsider is what the first browser from another machine finds.
type outsider struct {
	told atomic.Bool
}

// sighting is what it tells. A way that it was told no URL of is absent.
type sighting struct {
	UDP *bool `json:"udp"`
	TCP *bool `json:"tcp"`
}

// sightingLimit bounds what is read of it.
const sightingLimit = 1 << 10

// serveReachWanted says whether the page shall try.
func (s *Server) serveReachWanted(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]bool{"wanted": s.wantsReach(s.identify(r))})
}

func (s *Server) wantsReach(who clientID) bool {
	relay := s.relayAddress()
	return relay.IsValid() && !s.outsider.told.Load() && !who.addr.IsLoopback() && who.addr != relay
}

func (s *Server) relayAddress() netip.Addr {
	if s.cfg.RelayAddress == nil {
		return netip.Addr{}
	}
	return s.cfg.RelayAddress()
}

// serveReach takes what the page found. The first one counts.
func (s *Server) serveReach(w http.ResponseWriter, r *http.Request) {
	who := s.identify(r)
	if err := checkOrigin(r.Header.Get("Origin"), who, nil, true); err != nil { // It is for our own page alone.
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	var found sighting
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, sightingLimit)).Decode(&found); err != nil {
		http.Error(w, "not what was asked for", http.StatusBadRequest)
		return
	}
	if s.wantsReach(who) && s.outsider.told.CompareAndSwap(false, true) {
		found.notes(who, s.relayAddress()).Log(s.cfg.Logger)
	}
	w.WriteHeader(http.StatusNoContent)
}

// notes tell what contradicts what clients are told.
func (found sighting) notes(who clientID, relay netip.Addr) (n setting.Notes) {
	switch {
	case failed(found.UDP) && (found.TCP == nil || failed(found.TCP)):
		n.Warnf("relay_unreached", "a browser at %s reaches this node, but got no relay: open --turn-port for UDP and TCP, and see that --turn-public-host leads here", who.addr)
	case failed(found.UDP):
		n.Tellf("relay_unreached_udp", "a browser at %s got a relay over TCP, but none over UDP: open --turn-port for UDP, unless the firewall is its own", who.addr)
	}
	host := hostAddress(who.host)
	switch {
	case isPublic(who.addr) && !isPublic(relay) && isPublic(host):
		n.Warnf("relay_elsewhere", "a browser at %s reaches this node as %s and is told of relays at %s, which is private: set --turn-external-ip %s", who.addr, host, relay, host)
	case isPublic(who.addr) && !isPublic(relay):
		n.Warnf("relay_elsewhere", "a browser at %s reaches this node, and is told of relays at %s, which is private: set --turn-external-ip to the address that the internet knows this machine by", who.addr, relay)
	case isPublic(relay) && isPublic(host) && host.BitLen() == relay.BitLen() && host != relay:
		n.Warnf("relay_elsewhere", "a browser at %s reaches this node as %s and is told of relays at %s: set --turn-external-ip %s, unless a balancer is in between", who.addr, host, relay, host)
	}
	return n
}

func failed(way *bool) bool { return way != nil && !*way }

// hostAddress returns the address in a Host header, or an invalid one for a name.
func hostAddress(host string) netip.Addr {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, _ := netip.ParseAddr(host)
	return addr.Unmap()
}

var sharedByNATs = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !sharedByNATs.Contains(addr)
}
