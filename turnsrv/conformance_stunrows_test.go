package turnsrv

import (
	"github.com/pion/stun/v2"
)

// stunRows are those of RFC 8489.
var stunRows = []conformanceRow{
	{name: "RFC 8489 12: Binding over UDP tells the mapped address", check: checkBinding("udp", loopbackIPv4)},
	{name: "RFC 8489 12: Binding over TCP tells the mapped address", check: checkBinding("tcp", loopbackIPv4)},
	{name: "RFC 8489 12: Binding over UDP and IPv6 tells the mapped address", check: checkBinding("udp", loopbackIPv6)},
	{name: "RFC 8489 12: Binding over TCP and IPv6 tells the mapped address", check: checkBinding("tcp", loopbackIPv6)},

	{
		name:  "RFC 8489 5: an Allocate with a wrong magic cookie is no STUN",
		check: checkIgnored(wrongCookie),
	},
	{
		name:  "RFC 8489 5: the first two bits are zero",
		check: checkIgnored(firstBits),
		differs: differences{
			targetPion: {"answered with success", "it looks at the magic cookie alone"},
		},
	},
	{name: "RFC 8489 5: a length is a multiple of 4", check: checkIgnored(oddLength)},
	{name: "RFC 8489 6.3: a message that is cut off is dropped", check: checkIgnored(cutOff)},
	{
		name:  "RFC 8489 6.3: bytes behind a message make it no message",
		check: checkIgnored(trailing),
		differs: differences{
			targetPion: {"answered with success", "its library takes a message that is shorter than its datagram"},
		},
	},
	{
		name:  "RFC 8489 6.3: an attribute longer than its message is dropped",
		check: checkIgnored(overlong),
		differs: differences{
			targetCoturn: {"answered with success", "it answers Binding without a look at attributes that it does not need"},
		},
	},
	{name: "RFC 8489 6.3: less than a header is dropped", check: checkIgnored(headerOnly)},
	{
		name:  "RFC 8489 6.3: an unknown method is dropped or gets 400",
		check: checkUnknownMethod,
		differs: differences{
			targetCoturn: {"got 401, want 400", "it authenticates before it looks at the method"},
		},
	},
	{name: "RFC 8489 6.3.2: a Binding indication gets no response", check: ignoredMessage(stun.NewType(stun.MethodBinding, stun.ClassIndication))},
	{name: "RFC 8489 6.3.2: an Allocate indication gets no response", check: ignoredMessage(stun.NewType(stun.MethodAllocate, stun.ClassIndication))},
	{name: "RFC 8489 6.3.3: a success response gets no response", check: ignoredMessage(stun.BindingSuccess)},
	{name: "RFC 8489 6.3.4: an error response gets no response", check: ignoredMessage(stun.BindingError)},
	{
		name:  "RFC 8489 6.3.1: an unknown required attribute gets 420 with UNKNOWN-ATTRIBUTES",
		check: withClient("udp", checkUnknownRequired),
		differs: differences{
			targetPion: {"Allocate: got success, want 420", ignoresUnknown},
		},
	},
	{name: "RFC 8489 6.3.1: an unknown optional attribute is ignored", check: withClient("udp", checkUnknownOptional)},
	{
		name:  "RFC 8489 7: a wrong FINGERPRINT on Binding is dropped",
		check: checkIgnored(withWrongFingerprint),
		differs: differences{
			targetPion: {"answered with success", ignoresFingerprint},
		},
	},
	{
		name:  "RFC 8489 7: a wrong FINGERPRINT on a signed request is dropped",
		check: withClient("udp", checkSignedWrongFingerprint),
		differs: differences{
			targetPion: {"answered with success", ignoresFingerprint},
		},
	},
	{
		name:  "RFC 8489 7: a request with FINGERPRINT is answered with one",
		check: withClient("udp", checkFingerprintAnswered),
		differs: differences{
			targetPion: {"Allocate: FINGERPRINT of success: attribute not found", "only its answers to Binding have one"},
		},
	},

	{
		name:  "RFC 8489 9.2.4: missing integrity gets 401 with REALM and NONCE",
		check: checkMissingIntegrity,
		differs: differences{
			targetPion: {"CreatePermission: no answer", silentWithout},
		},
	},
	{
		name:  "RFC 8489 9.2.4: an unknown user gets 401 with REALM and NONCE",
		check: checkWrongCredentials(asUnknownUser),
		differs: differences{
			targetCoturn: {"Allocate: got 437, want success", "the first username that it hears from a 5-tuple is the only one it takes there"},
			targetPion:   {"Allocate: got 400, want 401", "it does not tell wrong credentials from bad requests"},
		},
	},
	{
		name:  "RFC 8489 9.2.4: a wrong password gets 401 with REALM and NONCE",
		check: checkWrongCredentials(asWrongPassword),
		differs: differences{
			targetPion: {"Allocate: got 400, want 401", "it does not tell wrong credentials from bad requests"},
		},
	},
	{
		name:  "RFC 8489 9.2.4: an expired user gets 401 with REALM and NONCE",
		check: checkWrongCredentials(asExpiredUser),
		differs: differences{
			targetCoturn: {"Allocate: got 437, want success", "the first username that it hears from a 5-tuple is the only one it takes there"},
			targetPion:   {"Allocate: got 400, want 401", "it does not tell wrong credentials from bad requests"},
		},
	},
	{name: "RFC 8489 9.2.4: integrity without USERNAME gets 400", check: checkWithout(stun.AttrUsername)},
	{name: "RFC 8489 9.2.4: integrity without REALM gets 400", check: checkWithout(stun.AttrRealm)},
	{name: "RFC 8489 9.2.4: integrity without NONCE gets 400", check: checkWithout(stun.AttrNonce)},
	{name: "RFC 8489 9.2.4: a garbage nonce gets 438 with a fresh one", check: checkStaleNonce(garbageNonce)},
	{name: "RFC 8489 9.2.4: a forged nonce gets 438 with a fresh one", check: checkStaleNonce(forgedNonce)},
	{
		name:  "RFC 8489 9.2: a nonce is bound to the client's address",
		check: checkStaleNonce(foreignNonce),
		differs: differences{
			targetPion: {"got success, want 438", "a nonce of its is good for everybody"},
		},
	},
	{
		name:  "RFC 8489 9.2.4: authenticated errors have MESSAGE-INTEGRITY",
		check: checkIntegrityOfErrors,
		differs: differences{
			targetCoturn: {"Allocate: 437 without MESSAGE-INTEGRITY", "it refuses a second Allocate before it authenticates"},
			targetPion:   {"ChannelBind: 400 without MESSAGE-INTEGRITY", "it signs nothing but successes"},
		},
	},
	{
		name:  "RFC 8489 14.5: attributes behind MESSAGE-INTEGRITY are ignored",
		check: withClient("udp", checkAfterIntegrity),
		differs: differences{
			targetCoturn: {"got success, want 400", takesAll},
			targetPion:   {"got success, want 400", takesAll},
		},
	},
	{
		name:  "RFC 8489 14.8: errors have a reason phrase",
		check: checkReasons,
		differs: differences{
			targetPion: {"ChannelBind: 400 without a reason phrase", "it sends the number alone"},
		},
	},
	{
		name:  "RFC 8489 14.14: SOFTWARE is not told",
		check: withClient("udp", checkNoSoftware),
		differs: differences{
			targetCoturn: {"success with SOFTWARE", "it tells its version unless it is told --no-software-attribute"},
		},
	},
	{name: "RFC 8489 16: answers to unauthenticated requests are small", check: withClient("udp", checkSmallAnswers)},
}
