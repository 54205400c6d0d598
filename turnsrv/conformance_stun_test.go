package turnsrv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// A wireCheck returns an error instead of failing a test, because some servers are
// expected to fail it.
type wireCheck func(*testbed) error

// unknownRequired and unknownOptional are attribute types nobody has assigned.
const (
	unknownRequired stun.AttrType = 0x7f00
	unknownOptional stun.AttrType = 0xff00
)

// authenticatedMethods are those that long-term credentials protect.
var authenticatedMethods = []stun.Method{
	stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind,
}

// withClient runs f with a client that has a nonce and no allocation.
func withClient(network string, f func(*testbed, *wireClient) error) wireCheck {
	return func(b *testbed) error {
		c, err := b.client(network)
		if err != nil {
			return err
		}
		return f(b, c)
	}
}

// checkBinding asks for the own address.
func checkBinding(network string, from netip.Addr) wireCheck {
	return func(b *testbed) error {
		c, err := b.dial(network, from)
		if err != nil {
			return err
		}
		answer, err := c.exchange(wireRequest(stun.MethodBinding))
		if err != nil {
			return err
		}
		if err := wantSuccess(answer); err != nil {
			return err
		}
		mapped, err := answerAddress(answer, stun.AttrXORMappedAddress)
		if err != nil {
			return err
		}
		if mapped != c.local() {
			return fmt.Errorf("mapped address %s, want %s", mapped, c.local())
		}
		return nil
	}
}

// checkIgnored sends a frame that nothing may answer. make gets a Binding
// request and returns the bytes to send.
func checkIgnored(make func(*stun.Message) []byte) wireCheck {
	return func(b *testbed) error {
		c, err := b.dial("udp", loopbackIPv4)
		if err != nil {
			return err
		}
		m := wireRequest(stun.MethodBinding)
		return c.ignored(make(m), m.TransactionID)
	}
}

// ignoredMessage is checkIgnored for a well-formed message of some type.
func ignoredMessage(t stun.MessageType, attrs ...stun.Setter) wireCheck {
	return func(b *testbed) error {
		c, err := b.dial("udp", loopbackIPv4)
		if err != nil {
			return err
		}
		m := wireMessage(t, attrs...)
		return c.ignored(m.Raw, m.TransactionID)
	}
}

// checkUnknownMethod accepts silence, which RFC 8489 6.3 asks for, and 400.
func checkUnknownMethod(b *testbed) error {
	c, err := b.dial("udp", loopbackIPv4)
	if err != nil {
		return err
	}
	answer, err := c.exchange(wireRequest(0x0ff))
	if errors.Is(err, errSilent) {
		return nil
	}
	if err != nil {
		return err
	}
	return wantCode(answer, 400)
}

// withWrongFingerprint ends a message with a FINGERPRINT that is off by one bit.
func withWrongFingerprint(m *stun.Message) []byte {
	if err := stun.Fingerprint.AddTo(m); err != nil {
		panic(err)
	}
	m.Raw[len(m.Raw)-1] ^= 1
	return m.Raw
}

// checkSignedWrongFingerprint sends an Allocate request that is right but for
// its FINGERPRINT.
func checkSignedWrongFingerprint(_ *testbed, c *wireClient) error {
	m := c.signed(stun.MethodAllocate, attrTransport(17))
	return c.ignored(withWrongFingerprint(m), m.TransactionID)
}

// checkFingerprintAnswered wants FINGERPRINT in every kind of answer to a
// request that had it.
func checkFingerprintAnswered(_ *testbed, c *wireClient) error {
	allocate := c.signed(stun.MethodAllocate, attrTransport(17))
	if err := stun.Fingerprint.AddTo(allocate); err != nil {
		return err
	}
	return errors.Join(
		fingerprintAnswered(c, wireRequest(stun.MethodBinding, stun.Fingerprint)),
		fingerprintAnswered(c, wireRequest(stun.MethodRefresh, stun.Fingerprint)),
		fingerprintAnswered(c, allocate))
}

func fingerprintAnswered(c *wireClient, m *stun.Message) error {
	answer, err := c.exchange(m)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Type.Method, err)
	}
	if err := stun.Fingerprint.Check(answer); err != nil {
		return fmt.Errorf("%s: FINGERPRINT of %s: %w", m.Type.Method, describeAnswer(answer), err)
	}
	return nil
}

// checkUnknownRequired wants a 420 that names the attribute.
func checkUnknownRequired(_ *testbed, c *wireClient) error {
	binding, err := c.exchange(wireRequest(stun.MethodBinding, attrRaw(unknownRequired, 1, 2, 3)))
	if err == nil {
		err = want420(binding, unknownRequired)
	}
	allocate, callErr := c.call(stun.MethodAllocate, attrTransport(17), attrRaw(unknownRequired, 1, 2, 3))
	if callErr == nil {
		callErr = want420(allocate, unknownRequired)
	}
	return errors.Join(err, callErr)
}

func want420(answer *stun.Message, types ...stun.AttrType) error {
	if err := wantCode(answer, 420); err != nil {
		return err
	}
	return wantUnknown(answer, types...)
}

func checkUnknownOptional(_ *testbed, c *wireClient) error {
	binding, err := c.exchange(wireRequest(stun.MethodBinding, attrRaw(unknownOptional, 1)))
	if err != nil {
		return err
	}
	if err := wantSuccess(binding); err != nil {
		return err
	}
	_, _, err = wireAllocate(c, attrRaw(unknownOptional, 1, 2, 3, 4, 5))
	return err
}

// checkNoSoftware looks at answers of three kinds.
func checkNoSoftware(_ *testbed, c *wireClient) error {
	for _, m := range []*stun.Message{
		wireRequest(stun.MethodBinding),
		wireRequest(stun.MethodAllocate, attrTransport(17)),
		c.signed(stun.MethodAllocate, attrTransport(17)),
	} {
		answer, err := c.exchange(m)
		if err != nil {
			return err
		}
		if software, err := answer.Get(stun.AttrSoftware); err == nil {
			return fmt.Errorf("%s: %s with SOFTWARE %q", m.Type.Method, describeAnswer(answer), software)
		}
	}
	return nil
}

// checkSmallAnswers bounds what an unauthenticated request can make a server
// send to an address that need not be the sender's.
func checkSmallAnswers(_ *testbed, c *wireClient) error {
	for _, m := range []*stun.Message{
		wireRequest(stun.MethodBinding),
		wireRequest(stun.MethodAllocate, attrTransport(17)),
		wireRequest(stun.MethodRefresh),
		wireRequest(stun.MethodBinding, attrRaw(unknownRequired)),
	} {
		answer, err := c.exchange(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Type.Method, err)
		}
		if limit := max(200, 2*len(m.Raw)); len(answer.Raw) > limit {
			return fmt.Errorf("%s: %d bytes are answered with %d", m.Type.Method, len(m.Raw), len(answer.Raw))
		}
	}
	return nil
}

// checkMissingIntegrity asks without credentials, by every method.
func checkMissingIntegrity(b *testbed) error {
	c, err := b.dial("udp", loopbackIPv4)
	if err != nil {
		return err
	}
	var errs []error
	for _, method := range authenticatedMethods {
		errs = append(errs, wantChallenge(c, wireRequest(method, attrTransport(17)), 401))
	}
	return errors.Join(errs...)
}

// wantChallenge expects an error with REALM and NONCE, and that a request with
// these and the right password is believed afterwards.
func wantChallenge(c *wireClient, m *stun.Message, code int) error {
	answer, err := c.exchange(m)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Type.Method, err)
	}
	if err := wantCode(answer, code); err != nil {
		return err
	}
	return c.learn(answer)
}

// checkWrongCredentials expects a 401 that a client can go on from. spoil makes
// the client's credentials wrong.
func checkWrongCredentials(spoil func(*testbed, *wireClient)) wireCheck {
	return withClient("udp", func(b *testbed, c *wireClient) error {
		username, credential := c.username, c.password
		spoil(b, c)
		var errs []error
		for _, method := range authenticatedMethods {
			errs = append(errs, wantChallenge(c, c.signed(method, attrTransport(17)), 401))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		c.username, c.password = username, credential
		answer, err := c.exchange(c.signed(stun.MethodAllocate, attrTransport(17)))
		if err != nil {
			return err
		}
		return wantSuccess(answer)
	})
}

func asUnknownUser(_ *testbed, c *wireClient)   { c.username = "nobody" }
func asWrongPassword(_ *testbed, c *wireClient) { c.password = "guessed" }

func asExpiredUser(b *testbed, c *wireClient) {
	c.username, c.password = Credentials(testSecret, b.user, time.Now().Add(-time.Minute))
}

// checkWithout leaves one attribute out of an otherwise right request.
func checkWithout(missing stun.AttrType) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error {
		attrs := []stun.Setter{attrTransport(17)}
		for t, setter := range map[stun.AttrType]stun.Setter{
			stun.AttrUsername: stun.NewUsername(c.username),
			stun.AttrRealm:    stun.NewRealm(c.realm),
			stun.AttrNonce:    stun.NewNonce(c.nonce),
		} {
			if t != missing {
				attrs = append(attrs, setter)
			}
		}
		answer, err := c.exchange(wireRequest(stun.MethodAllocate, append(attrs, c.key())...))
		if err != nil {
			return err
		}
		return wantCode(answer, 400)
	})
}

// checkStaleNonce sends a nonce that the server never gave to this client and
// goes on with the one it gets.
func checkStaleNonce(nonce func(*testbed) (string, error)) wireCheck {
	return withClient("udp", func(b *testbed, c *wireClient) error {
		stale, err := nonce(b)
		if err != nil {
			return err
		}
		c.nonce = stale
		if err := wantChallenge(c, c.signed(stun.MethodAllocate, attrTransport(17)), 438); err != nil {
			return err
		}
		if c.nonce == stale {
			return errors.New("438 with the stale NONCE")
		}
		answer, err := c.exchange(c.signed(stun.MethodAllocate, attrTransport(17)))
		if err != nil {
			return err
		}
		return wantSuccess(answer)
	})
}

func garbageNonce(*testbed) (string, error) { return "garbage", nil }

// forgedNonce has the shape of a nonce of the server, but for one character.
func forgedNonce(b *testbed) (string, error) {
	c, err := b.client("udp")
	if err != nil {
		return "", err
	}
	forged := []byte(c.nonce)
	forged[len(forged)/2] ^= 1
	return string(forged), nil
}

// foreignNonce is one that another address got.
func foreignNonce(b *testbed) (string, error) {
	c, err := b.dial("udp", otherLoopback)
	if err != nil {
		return "", err
	}
	err = c.challenge()
	return c.nonce, err
}

// checkAfterIntegrity hides REQUESTED-TRANSPORT behind MESSAGE-INTEGRITY, where
// anyone on the way could have put it.
func checkAfterIntegrity(_ *testbed, c *wireClient) error {
	m := c.signed(stun.MethodAllocate)
	m.Add(stun.AttrRequestedTransport, []byte{17, 0, 0, 0})
	answer, err := c.exchange(m)
	if err != nil {
		return err
	}
	return wantCode(answer, 400)
}

// checkIntegrityOfErrors wants each authenticated error signed.
func checkIntegrityOfErrors(b *testbed) error {
	return provoke(b, func(c *wireClient, answer *stun.Message) error { return c.wantIntegrity(answer) })
}

// checkReasons wants a reason phrase in every error.
func checkReasons(b *testbed) error {
	return provoke(b, func(_ *wireClient, answer *stun.Message) error { return wantReason(answer) })
}

// provoke looks at the answers to requests that cannot succeed.
func provoke(b *testbed, look func(*wireClient, *stun.Message) error) error {
	fresh, err := b.client("udp")
	if err != nil {
		return err
	}
	used, err := b.client("udp")
	if err != nil {
		return err
	}
	if _, _, err := wireAllocate(used); err != nil {
		return err
	}
	return errors.Join(provokeWithout(fresh, look), provokeWith(used, look))
}

// provokeWithout needs no allocation.
func provokeWithout(c *wireClient, look func(*wireClient, *stun.Message) error) error {
	var errs []error
	for _, attrs := range [][]stun.Setter{
		nil, {attrTransport(132)}, {attrTransport(17), attrFamily(3)},
		{attrTransport(17), attrRaw(unknownRequired)},
		{attrTransport(17), attrRaw(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)},
	} {
		errs = append(errs, provokeOne(c, look, stun.MethodAllocate, attrs...))
	}
	return errors.Join(append(errs,
		provokeOne(c, look, stun.MethodRefresh),
		provokeOne(c, look, stun.MethodCreatePermission, attrPeer(foreignPeer)),
		provokeOne(c, look, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(foreignPeer)))...)
}

// provokeWith needs one.
func provokeWith(c *wireClient, look func(*wireClient, *stun.Message) error) error {
	return errors.Join(
		provokeOne(c, look, stun.MethodAllocate, attrTransport(17)),
		provokeOne(c, look, stun.MethodCreatePermission),
		provokeOne(c, look, stun.MethodCreatePermission, attrPeer(deniedPeer)),
		provokeOne(c, look, stun.MethodCreatePermission, attrPeer(foreignPeer)),
		provokeOne(c, look, stun.MethodChannelBind),
		provokeOne(c, look, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(deniedPeer)),
		provokeOne(c, look, stun.MethodChannelBind, attrChannel(0x3fff), attrPeer(deniedPeer)))
}

func provokeOne(c *wireClient, look func(*wireClient, *stun.Message) error, method stun.Method, attrs ...stun.Setter) error {
	answer, err := c.call(method, attrs...)
	if err == nil && answer.Type.Class != stun.ClassErrorResponse {
		err = fmt.Errorf("%s: got %s, want an error", method, describeAnswer(answer))
	}
	if err != nil {
		return err
	}
	if err := look(c, answer); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// wrongCookie and the functions below spoil a Binding request.
func wrongCookie(m *stun.Message) []byte {
	m.Raw[1] = 3 // Allocate: a Binding request with another cookie is one of RFC 3489.
	m.Raw[7] ^= 1
	return m.Raw
}

// firstBits sets the two bits that are zero in every STUN message.
func firstBits(m *stun.Message) []byte {
	m.Raw[0] |= 0xc0
	return m.Raw
}

// oddLength has a length that is no multiple of 4, and as many bytes.
func oddLength(m *stun.Message) []byte {
	m.Add(stun.AttrSoftware, []byte("abc"))
	binary.BigEndian.PutUint16(m.Raw[2:], 7)
	return m.Raw[:wire.STUNHeader+7]
}

// cutOff ends before the length that the header tells.
func cutOff(m *stun.Message) []byte {
	m.Add(stun.AttrSoftware, []byte("abcd"))
	return m.Raw[:len(m.Raw)-4]
}

// trailing goes on behind the length that the header tells.
func trailing(m *stun.Message) []byte { return append(m.Raw, 0x80, 0x22, 0, 0) }

// overlong has an attribute that is longer than the message.
func overlong(m *stun.Message) []byte {
	m.Add(stun.AttrSoftware, []byte("abcd"))
	binary.BigEndian.PutUint16(m.Raw[wire.STUNHeader+2:], 400)
	return m.Raw
}

// headerOnly is less than a header.
func headerOnly(m *stun.Message) []byte { return slices.Clone(m.Raw[:wire.STUNHeader-1]) }
