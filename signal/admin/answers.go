package admin

// answers returns what this node answers to others, and to itself.
func (s *Server) answers() topics {
	all := topics{}
	aboutRooms.on(all, s.ownRooms)
	aboutTell.on(all, s.tellOwn)
	aboutUsers.on(all, s.ownUsers)
	aboutKick.on(all, s.kickOwn)
	aboutRelays.on(all, s.ownRelays)
	aboutRevoke.on(all, s.revokeOwn)
	aboutKill.on(all, s.endOwn)
	aboutPlaces.on(all, s.ownPlaces)
	aboutNode.on(all, s.ownNode)
	aboutDrain.on(all, s.drainOwn)
	aboutLevel.on(all, s.setOwnLevel)
	return all
}
