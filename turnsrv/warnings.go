package turnsrv

import "fmt"

// Warnings say to a person what about the server is unsafe, or keeps clients from it.
func (s *Server) Warnings() []string {
	if s == nil {
		return nil
	}
	var out []string
	if addr := s.RelayIP(); addr.IsPrivate() || addr.IsLoopback() {
		out = append(out,
			fmt.Sprintf("relay address %s is private: clients elsewhere cannot reach it; set --turn-relay-ip or --turn-external-ip", addr),
			"peers on private addresses are denied; open your network with --turn-allow-peer, such as 192.168.0.0/16")
	}
	return out
}
