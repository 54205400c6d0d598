package turnsrv

import (
	"net/netip"

	"github.com/pion/stun/v2"
)

// turnRows are those of RFC 8656.
var turnRows = []conformanceRow{
	{
		name:  "RFC 8656 5: Refresh without an allocation gets 437",
		check: refusedWithoutAllocation(437, stun.MethodRefresh),
		differs: differences{
			targetPion: {"no answer", silentWithout},
		},
	},
	{
		name:  "RFC 8656 5: Refresh with LIFETIME 0 without an allocation gets 437",
		check: refusedWithoutAllocation(437, stun.MethodRefresh, attrLifetime(0)),
		differs: differences{
			targetPion: {"got success, want 437", "to delete nothing is a success to it"},
		},
	},
	{
		name:  "RFC 8656 5: CreatePermission without an allocation gets 437",
		check: refusedWithoutAllocation(437, stun.MethodCreatePermission, attrPeer(foreignPeer)),
		differs: differences{
			targetCoturn: {"got 400, want 437", "it knows 437 for Allocate and Refresh only"},
			targetPion:   {"no answer", silentWithout},
		},
	},
	{
		name:  "RFC 8656 5: ChannelBind without an allocation gets 437",
		check: refusedWithoutAllocation(437, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(foreignPeer)),
		differs: differences{
			targetCoturn: {"got 400, want 437", "it knows 437 for Allocate and Refresh only"},
			targetPion:   {"no answer", silentWithout},
		},
	},
	{name: "RFC 8656 5: Send without an allocation gets no response", check: ignoredMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrPeer(foreignPeer), attrRaw(stun.AttrData, 1))},
	{
		name:  "RFC 8656 5: Refresh by another valid user gets 441",
		check: checkOtherUser(stun.MethodRefresh, attrLifetime(0)),
		differs: differences{
			targetPion: {"got success, want 441", "it forgets who made an allocation"},
		},
	},
	{
		name:  "RFC 8656 5: CreatePermission by another valid user gets 441",
		check: checkOtherUser(stun.MethodCreatePermission, attrPeer(netip.AddrPortFrom(loopbackIPv4, 61000))),
		differs: differences{
			targetPion: {"got success, want 441", "it forgets who made an allocation"},
		},
	},
	{
		name:  "RFC 8656 5: ChannelBind by another valid user gets 441",
		check: checkOtherUser(stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(netip.AddrPortFrom(loopbackIPv4, 61000))),
		differs: differences{
			targetPion: {"got success, want 441", "it forgets who made an allocation"},
		},
	},

	{name: "RFC 8656 7.2: Allocate over UDP", check: checkAllocate("udp")},
	{name: "RFC 8656 7.2: Allocate over TCP", check: checkAllocate("tcp")},
	{name: "RFC 8656 7.2: a second Allocate on the 5-tuple gets 437", check: refusedWithAllocation(437, stun.MethodAllocate, attrTransport(17))},
	{name: "RFC 8656 7.2: a retransmitted Allocate gets the same relayed address", check: withClient("udp", checkRetransmission)},
	{name: "RFC 8656 7.2: Allocate without REQUESTED-TRANSPORT gets 400", check: allocateRefused(400)},
	{name: "RFC 8656 7.2: a malformed REQUESTED-TRANSPORT gets 400", check: allocateRefused(400, attrRaw(stun.AttrRequestedTransport, 17))},
	{
		name:  "RFC 8656 7.2: a relay over TCP gets 442",
		check: allocateRefused(442, attrTransport(6)),
		differs: differences{
			targetPion: {"got success, want 442", "it takes the protocol number and makes a relay over UDP"},
		},
	},
	{
		name:  "RFC 8656 7.2: an unknown protocol gets 442",
		check: allocateRefused(442, attrTransport(132)),
		differs: differences{
			targetCoturn: {"got 400, want 442", "a protocol it does not know is a malformed attribute to it"},
		},
	},
	{
		name:  "RFC 8656 7.2: DONT-FRAGMENT is supported or gets 420",
		check: withClient("udp", checkDontFragment),
		differs: differences{
			targetPion: {"UNKNOWN-ATTRIBUTES 001a0000, want 001a", "its library writes 32 bits for each type"},
		},
	},
	{name: "RFC 8656 7.2: RESERVATION-TOKEN with EVEN-PORT gets 400", check: allocateRefused(400, attrTransport(17), attrEvenPort(false), attrToken(1))},
	{
		name:  "RFC 8656 7.2: RESERVATION-TOKEN with REQUESTED-ADDRESS-FAMILY gets 400",
		check: allocateRefused(400, attrTransport(17), attrFamily(1), attrToken(1)),
		differs: differences{
			targetPion: {"got success, want 400", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: RESERVATION-TOKEN with ADDITIONAL-ADDRESS-FAMILY gets 400",
		check: allocateRefused(400, attrTransport(17), attrAdditionalFamily(2), attrToken(1)),
		differs: differences{
			targetCoturn: {"got 404, want 400", draftFamily},
			targetPion:   {"got success, want 400", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: a token nobody got gets 508",
		check: allocateRefused(508, attrTransport(17), attrToken(1)),
		differs: differences{
			targetCoturn: {"got 404, want 508", "it has a code of its own for this"},
			targetPion:   {"got success, want 508", ignoresToken},
		},
	},
	{
		name:  "RFC 8656 7.2: both address family attributes get 400",
		check: allocateRefused(400, attrTransport(17), attrFamily(1), attrAdditionalFamily(2)),
		differs: differences{
			targetCoturn: {"got success, want 400", draftFamily},
			targetPion:   {"got success, want 400", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: an unknown address family gets 440",
		check: allocateRefused(440, attrTransport(17), attrFamily(3)),
		differs: differences{
			targetPion: {"got success, want 440", ignoresFamily},
		},
	},
	{name: "RFC 8656 7.2: an IPv4 relay can be asked for", check: withAllocation("udp", checkSendAndData, attrFamily(1))},
	{
		name:  "RFC 8656 7.2: an IPv6 relay is one or gets 440",
		check: withClient("udp", checkFamilyIPv6),
		differs: differences{
			targetPion: {"the relayed address is 127.0.0.1", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: an IPv6 relay relays to IPv6 peers alone",
		check: withClient("udp", checkIPv6Relay),
		differs: differences{
			targetPion: {"the relayed address is 127.0.0.1", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: EVEN-PORT with R and ADDITIONAL-ADDRESS-FAMILY gets 400",
		check: allocateRefused(400, attrTransport(17), attrEvenPort(true), attrAdditionalFamily(2)),
		differs: differences{
			targetCoturn: {"got success, want 400", draftFamily},
			targetPion:   {"got success, want 400", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: ADDITIONAL-ADDRESS-FAMILY IPv4 gets 400",
		check: allocateRefused(400, attrTransport(17), attrAdditionalFamily(1)),
		differs: differences{
			targetCoturn: {"got success, want 400", draftFamily},
			targetPion:   {"got success, want 400", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 7.2: ADDITIONAL-ADDRESS-FAMILY IPv6 adds a relay or tells why not",
		check: withClient("udp", checkAdditionalIPv6),
		differs: differences{
			targetCoturn: {"1 relayed addresses", draftFamily},
			targetPion:   {"1 relayed addresses", ignoresFamily},
		},
	},
	{name: "RFC 8656 7.2: EVEN-PORT gives an even port", check: checkEvenPort},
	{
		name:  "RFC 8656 7.2: EVEN-PORT with R reserves the next port for its token",
		check: checkReservation,
		differs: differences{
			targetPion: {"the token gave", ignoresToken},
		},
	},
	{
		name:  "RFC 8656 7.2: a token that was used gets 508",
		check: checkTokenUsed,
		differs: differences{
			targetCoturn: {"got 404, want 508", "it has a code of its own for this"},
			targetPion:   {"got success, want 508", ignoresToken},
		},
	},
	{
		name:  "RFC 8656 7.2: a user over quota gets 486",
		check: checkQuota,
		differs: differences{
			targetPion: {"got success, want 486", "it has no quotas"},
		},
	},
	{name: "RFC 8656 7.2: no LIFETIME is 600", check: checkAllocateLifetime(600)},
	{
		name:  "RFC 8656 7.2: LIFETIME 0 is 600",
		check: checkAllocateLifetime(600, attrLifetime(0)),
		differs: differences{
			targetPion: {"got 508, want success", lifetimeAsIs},
		},
	},
	{
		name:  "RFC 8656 7.2: LIFETIME 1 is 600",
		check: checkAllocateLifetime(600, attrLifetime(1)),
		differs: differences{
			targetPion: {"LIFETIME 1, want 600", lifetimeAsIs},
		},
	},
	{name: "RFC 8656 7.2: LIFETIME 1800 is 1800", check: checkAllocateLifetime(1800, attrLifetime(1800))},

	{name: "RFC 8656 8.2: Refresh without LIFETIME is 600", check: checkRefreshLifetime(600)},
	{
		name:  "RFC 8656 8.2: Refresh with LIFETIME 1 is 600",
		check: checkRefreshLifetime(600, attrLifetime(1)),
		differs: differences{
			targetPion: {"LIFETIME 1, want 600", lifetimeAsIs},
		},
	},
	{
		name:  "RFC 8656 8.2: a long LIFETIME is the maximum",
		check: withAllocation("udp", checkMaximumLifetime),
		differs: differences{
			targetPion: {"became [600 600 600]", "it takes the default for what is too long"},
		},
	},
	{
		name:  "RFC 8656 8.2: Refresh with another address family gets 443",
		check: refusedWithAllocation(443, stun.MethodRefresh, attrFamily(2)),
		differs: differences{
			targetPion: {"got success, want 443", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 8.2: Refresh with LIFETIME 0 deletes, over UDP",
		check: withAllocation("udp", checkDelete),
		differs: differences{
			targetCoturn: {"after the deletion: Refresh: got success, want 437", lingers},
			targetPion:   {"after the deletion: Refresh: no answer", silentWithout},
		},
	},
	{
		name:  "RFC 8656 8.2: Refresh with LIFETIME 0 deletes, over TCP",
		check: withAllocation("tcp", checkDelete),
		differs: differences{
			targetCoturn: {"after the deletion: Refresh: got success, want 437", lingers},
			targetPion:   {"after the deletion: Refresh: no answer", silentWithout},
		},
	},
	{
		name:  "RFC 8656 8.2: an allocation inherits no permission from one before",
		check: withAllocation("udp", checkNoHeritage),
		differs: differences{
			targetCoturn: {"after the deletion: Allocate: got 437, want success", lingers},
		},
	},

	{
		name:  "RFC 8656 10.2: CreatePermission without XOR-PEER-ADDRESS gets 400",
		check: refusedWithAllocation(400, stun.MethodCreatePermission),
		differs: differences{
			targetPion: {"an error without ERROR-CODE, want 400", noErrorCode},
		},
	},
	{
		name:  "RFC 8656 10.2: a malformed XOR-PEER-ADDRESS gets 400",
		check: refusedWithAllocation(400, stun.MethodCreatePermission, attrRaw(stun.AttrXORPeerAddress, 0, 1, 2)),
		differs: differences{
			targetCoturn: {"got success, want 400", "it skips what it cannot read"},
			targetPion:   {"an error without ERROR-CODE, want 400", noErrorCode},
		},
	},
	{
		name:  "RFC 8656 10.2: a denied peer gets 403",
		check: refusedWithAllocation(403, stun.MethodCreatePermission, attrPeer(deniedPeer)),
		differs: differences{
			targetPion: {"an error without ERROR-CODE, want 403", noErrorCode},
		},
	},
	{
		name:  "RFC 8656 10.2: a good and a denied peer get 403 and no permission",
		check: checkAllOrNothing(deniedPeer, 403),
		differs: differences{
			targetPion: {"the peer got what it must not", "it permits the peers before the denied one"},
		},
	},
	{
		name:  "RFC 8656 10.2: a peer of another address family gets 443",
		check: refusedWithAllocation(443, stun.MethodCreatePermission, attrPeer(foreignPeer)),
		differs: differences{
			targetPion: {"got success, want 443", ignoresFamily},
		},
	},
	{
		name:  "RFC 8656 10.2: a good peer and one of another family get 443 and no permission",
		check: checkAllOrNothing(foreignPeer, 443),
		differs: differences{
			targetPion: {"got success, want 443", ignoresFamily},
		},
	},

	{name: "RFC 8656 11.2: Send without permission is dropped", check: withAllocation("udp", checkSendWithoutPermission)},
	{
		name:  "RFC 8656 11.2: Send with an unknown required attribute is dropped",
		check: checkIgnoredSend(attrRaw(unknownRequired)),
		differs: differences{
			targetPion: {"the peer got what it must not", ignoresUnknown},
		},
	},
	{
		name:  "RFC 8656 11.2: Send with DONT-FRAGMENT is relayed or dropped as Allocate said",
		check: checkSendDontFragment,
		differs: differences{
			targetPion: {"the peer got what it must not", "it refuses the attribute in Allocate only"},
		},
	},
	{name: "RFC 8656 11.3: a peer without permission is dropped", check: withAllocation("udp", checkPeerWithoutPermission)},
	{name: "RFC 8656 11.3: Send and Data relay both ways, over UDP", check: withAllocation("udp", checkSendAndData)},
	{name: "RFC 8656 11.3: Send and Data relay both ways, over TCP", check: withAllocation("tcp", checkSendAndData)},
	{
		name:  "RFC 8656 11.3: big packets of a peer come whole or not at all, over UDP",
		check: withAllocation("udp", checkWholeFromPeer),
		differs: differences{
			targetPion: {"1601 bytes became 1600", cutsPackets},
		},
	},
	{
		name:  "RFC 8656 11.3: big packets of a peer come whole or not at all, over TCP",
		check: withAllocation("tcp", checkWholeFromPeer),
		differs: differences{
			targetPion: {"1601 bytes became 1600", cutsPackets},
		},
	},

	{name: "RFC 8656 12.2: ChannelBind without attributes gets 400", check: refusedWithAllocation(400, stun.MethodChannelBind)},
	{name: "RFC 8656 12.2: ChannelBind without CHANNEL-NUMBER gets 400", check: refusedWithAllocation(400, stun.MethodChannelBind, attrPeer(netip.AddrPortFrom(loopbackIPv4, 61000)))},
	{name: "RFC 8656 12.2: ChannelBind without XOR-PEER-ADDRESS gets 400", check: refusedWithAllocation(400, stun.MethodChannelBind, attrChannel(firstChannel))},
	{
		name:  "RFC 8656 12.2: channel 0x3FFF gets 400",
		check: checkChannelNumber(0x3fff),
		differs: differences{
			targetPion: {"got success, want 400", "it binds any number, though it relays on some only"},
		},
	},
	{
		name:  "RFC 8656 12.2: channel 0x5000 gets 400",
		check: checkChannelNumber(0x5000),
		differs: differences{
			targetCoturn: {"got success, want 400", "it keeps to RFC 5766, where channels went up to 0x7FFF"},
			targetPion:   {"got success, want 400", "it binds any number, though it relays on some only"},
		},
	},
	{
		name:  "RFC 8656 12.2: channel 0x7FFF gets 400",
		check: checkChannelNumber(0x7fff),
		differs: differences{
			targetCoturn: {"got success, want 400", "it keeps to RFC 5766, where channels went up to 0x7FFF"},
			targetPion:   {"got success, want 400", "it binds any number, though it relays on some only"},
		},
	},
	{
		name:  "RFC 8656 12.2: channel 0xFFFF gets 400",
		check: checkChannelNumber(0xffff),
		differs: differences{
			targetPion: {"got success, want 400", "it binds any number, though it relays on some only"},
		},
	},
	{name: "RFC 8656 12.2: channel 0x4FFF can be bound", check: withAllocation("udp", checkLastChannel)},
	{name: "RFC 8656 12.2: a channel bound to another peer gets 400", check: withAllocation("udp", checkChannelTaken)},
	{name: "RFC 8656 12.2: a peer bound to another channel gets 400", check: withAllocation("udp", checkPeerTaken)},
	{name: "RFC 8656 12.2: binding the same pair again refreshes it", check: withAllocation("udp", checkRebind)},
	{
		name:  "RFC 8656 12.2: ChannelBind to a denied peer gets 403",
		check: refusedWithAllocation(403, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(deniedPeer)),
		differs: differences{
			targetPion: {"got 401, want 403", "it calls a denied peer unauthorized"},
		},
	},
	{
		name:  "RFC 8656 12.2: ChannelBind to another address family gets 443",
		check: refusedWithAllocation(443, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(foreignPeer)),
		differs: differences{
			targetPion: {"got success, want 443", ignoresFamily},
		},
	},
	{name: "RFC 8656 12.2: ChannelBind installs a permission", check: withAllocation("udp", checkChannelPermits)},

	{name: "RFC 8656 12.5: ChannelData of every padding, over UDP", check: withAllocation("udp", checkChannelData)},
	{
		name:  "RFC 8656 12.5: ChannelData of every padding, over TCP",
		check: withAllocation("tcp", checkChannelData),
		differs: differences{
			targetPion: {peerWaits, "it leaves a frame of less than 9 bytes lying until more comes"},
		},
	},
	{name: "RFC 8656 12.5: ChannelData over UDP may be padded", check: withAllocation("udp", checkPaddedDatagrams)},
	{name: "RFC 8656 12.6: ChannelData on an unbound channel is dropped", check: checkBadChannelData(unboundChannel)},
	{name: "RFC 8656 12.6: ChannelData shorter than its length is dropped", check: checkBadChannelData(shortChannelData)},
	{name: "RFC 8656 12.6: big packets to a peer come whole or not at all, over UDP", check: withAllocation("udp", checkWholeToPeer)},
	{name: "RFC 8656 12.6: big packets to a peer come whole or not at all, over TCP", check: withAllocation("tcp", checkWholeToPeer)},
	{
		name:  "RFC 8656 12.7: big packets on a channel come whole or not at all, over UDP",
		check: withAllocation("udp", checkWholeOnChannel),
		differs: differences{
			targetPion: {"1601 bytes became 1600", cutsPackets},
		},
	},
	{
		name:  "RFC 8656 12.7: big packets on a channel come whole or not at all, over TCP",
		check: withAllocation("tcp", checkWholeOnChannel),
		differs: differences{
			targetPion: {"1601 bytes became 1600", cutsPackets},
		},
	},
}
