package state

// Protocol is how nodes speak to each other, as this one announces it, and oldestProtocol what it can still speak.
// Two nodes speak the lower one of theirs. Version 1 is that of a node that announces none, as of release 0.1.0.
// Version 2 puts the publishes of a stream in order and skips what it does not know; see packet.go.
const (
	Protocol       = 2
	oldestProtocol = 1
)

// speak fills in the versions of an announcement that names none.
func (i NodeInfo) speak() NodeInfo {
	if i.Protocol == 0 {
		i.Protocol, i.MinProtocol = Protocol, oldestProtocol
	}
	return i
}

// heardProtocolLocked takes the versions out of what another node announced, and warns once of a node with which
// this one has none in common.
func (r *Redis) heardProtocolLocked(info *NodeInfo) {
	info.Protocol, info.MinProtocol = max(info.Protocol, 1), max(info.MinProtocol, 1)
	if (info.MinProtocol > Protocol || info.Protocol < oldestProtocol) && !r.strangers[info.ID] {
		r.strangers[info.ID] = true
		r.log.Warn("a node speaks a protocol that this one does not: update this node", "node", r.id, "other", info.ID,
			"protocol", Protocol, "other_protocol", info.Protocol, "other_oldest", info.MinProtocol)
	}
}

// flightsLocked returns how many publishes of a stream to a node may be under way: one of protocol 1 asks at once
// for what comes too early. A node that is not known yet is new.
func (r *Redis) flightsLocked(node string) int {
	if p := r.peers[node]; p != nil && p.listed && p.info.Protocol == 1 {
		return 1
	}
	return maxFlights
}
