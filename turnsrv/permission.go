package turnsrv

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// refresh handles Refresh (RFC 8656, section 8.2).
func (q *request) refresh() {
	family, given, err := requestedFamily(q.m)
	lifetime, lifeErr := q.lifetime()
	if err != nil || lifeErr != nil {
		q.fail(stun.CodeBadRequest)
		return
	}
	var relays []*relay
	for _, r := range q.alloc.allRelays() {
		if !given || wire.FamilyOf(r.pool.address.Bind) == family {
			relays = append(relays, r)
		}
	}
	if len(relays) == 0 {
		q.fail(stun.CodePeerAddrFamilyMismatch)
		return
	}
	if lifetime == 0 {
		q.release(relays)
		return
	}
	for _, r := range relays {
		if err := r.kept.Refresh(lifetime); err != nil {
			q.serverError("refreshing", err)
			return
		}
	}
	q.alloc.refreshed(q.who, q.now.Add(lifetime))
	q.front.metrics.refreshed.Inc()
	q.succeed(wire.SetLifetime(lifetime))
}

// release closes relays at the client's wish.
func (q *request) release(relays []*relay) {
	if len(relays) == len(q.alloc.allRelays()) {
		q.alloc.end(endReleased)
	} else {
		for _, r := range relays {
			_ = r.Close()
			r.release()
		}
	}
	q.succeed(wire.SetLifetime(0))
}

// createPermission handles CreatePermission: all of its peers or none (RFC 8656,
// section 10.2).
func (q *request) createPermission() {
	peers, err := wire.PeerAddresses(q.m)
	if err != nil {
		q.fail(stun.CodeBadRequest)
		return
	}
	byAddress := func(peer netip.AddrPort) bool { return q.front.policy.Load().PermitsAddress(peer.Addr()) }
	if code := q.checkPeers(peers, byAddress); code != 0 {
		q.fail(code)
		return
	}
	if !q.alloc.permit(peers, q.front.cfg.MaxPermissions, q.now) {
		q.exceeded(quotaPeers)
		return
	}
	for _, r := range q.alloc.allRelays() {
		if err := r.kept.Permit(peers); err != nil {
			q.serverError("permitting", err)
			return
		}
	}
	q.succeed()
}

// checkPeers returns the error code of the first peer that the allocation cannot
// or, by what permits says, must not reach, 0 when there is none.
func (q *request) checkPeers(peers []netip.AddrPort, permits func(netip.AddrPort) bool) stun.ErrorCode {
	for _, peer := range peers {
		if q.alloc.relayFor(peer.Addr()) == nil {
			return stun.CodePeerAddrFamilyMismatch
		}
		if !permits(peer) {
			q.front.metrics.peersDenied.Inc()
			q.front.debug("turn peer denied", "client", q.from.Client, "peer", peer)
			return stun.CodeForbidden
		}
	}
	return 0
}

// channelBind handles ChannelBind (RFC 8656, section 12.2).
func (q *request) channelBind() {
	value, given, err := wire.SizedValue(q.m, stun.AttrChannelNumber, 4)
	peers, peersErr := wire.PeerAddresses(q.m)
	if err != nil || peersErr != nil || !given || len(peers) != 1 {
		q.fail(stun.CodeBadRequest)
		return
	}
	number, peer := binary.BigEndian.Uint16(value), peers[0]
	if number < minChannel || number > q.front.maxChannel {
		q.fail(stun.CodeBadRequest)
		return
	}
	if code := q.checkPeers(peers, q.front.policy.Load().Permits); code != 0 {
		q.fail(code)
		return
	}
	free, room := q.alloc.bindable(number, peer, q.front.cfg.MaxChannels, q.now)
	switch {
	case !free:
		q.fail(stun.CodeBadRequest)
		return
	case !room || !q.alloc.permit(peers, q.front.cfg.MaxPermissions, q.now):
		q.exceeded(quotaPeers)
		return
	}
	r := q.alloc.relayFor(peer.Addr())
	if r == nil { // It was closed a moment ago.
		q.fail(stun.CodeAllocMismatch)
		return
	}
	if err := r.kept.Bind(number, peer); err != nil {
		q.serverError("binding a channel", err)
		return
	}
	q.alloc.bind(number, peer, r, q.now)
	q.succeed()
}
