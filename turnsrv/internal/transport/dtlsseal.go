package transport

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/prf"
	"golang.org/x/crypto/chacha20poly1305"
)

// The DTLS implementation makes and ends handshakes. It takes a dozen allocations, a
// context, a goroutine and a system call for each record, so that a session that is
// established has its data protected here: with the keys that the implementation
// exports, in the format of RFC 6347, section 4.1, in buffers that are there already.
//
// What the implementation may still write is its last flight, when the client asks
// for it again. It numbers that from where it stood when it gave the keys, and the
// records of a sealer begin spareNumbers above, which is more than the client's
// handshakeBudget lets it write: a number is a nonce, and none may be used twice.
// A client that gets the last flight has sent nothing before, and been sent nothing.

// spareNumbers are left to the implementation.
const spareNumbers = 1 << 16

// lastNumber is the last sequence number of an epoch.
const lastNumber = 1<<48 - 1

// sealedEpoch is the epoch after the only handshake of a session.
const sealedEpoch = 1

// SealOverhead is the most that a record adds to what is in it.
const SealOverhead = recordHeader + explicitNonce + tagSize

const (
	explicitNonce = 8 // That of AES-GCM (RFC 5288, section 3).
	saltSize      = 4
	tagSize       = 16
	nonceSize     = 12
	recordInfo    = 13 // recordInfo is the size of what is authenticated with a record.
)

var (
	errNumbersUsed = errors.New("the session has used up its sequence numbers")
	errCipherSuite = errors.New("the session has a cipher suite that was not offered")
	errEpoch       = errors.New("the session is of another epoch")
	errTooLarge    = errors.New("the message is too large for a record")
)

// cipherSuites are those that sessions may have: all have an AEAD.
var cipherSuites = []dtls.CipherSuiteID{
	dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// protection is what a cipher suite does to records.
type protection struct {
	key, iv int
	hash    func() hash.Hash
	aead    func(key []byte) (cipher.AEAD, error)
}

func protectionOf(suite dtls.CipherSuiteID) (protection, error) {
	switch suite {
	case dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return protection{16, saltSize, sha256.New, newGCM}, nil
	case dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return protection{32, saltSize, sha512.New384, newGCM}, nil
	case dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return protection{chacha20poly1305.KeySize, nonceSize, sha256.New, chacha20poly1305.New}, nil
	}
	return protection{}, errCipherSuite
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// exported is what the implementation says of an established session.
type exported struct {
	LocalEpoch, RemoteEpoch   uint16
	LocalRandom, RemoteRandom [helloRandomSize]byte
	CipherSuiteID             uint16
	MasterSecret              []byte
	SequenceNumber            uint64 // SequenceNumber is that of the next record of ours.
}

// keysOf returns what protects the data of an established session.
func keysOf(session *dtls.Conn) (*sealer, *opener, error) {
	state, ok := session.ConnectionState()
	if !ok {
		return nil, nil, errCipherSuite
	}
	encoded, err := state.MarshalBinary()
	if err != nil {
		return nil, nil, fmt.Errorf("exporting the session: %w", err)
	}
	var e exported
	if err := gob.NewDecoder(bytes.NewReader(encoded)).Decode(&e); err != nil {
		return nil, nil, fmt.Errorf("reading the exported session: %w", err)
	}
	return e.keys()
}

// keys derives them (RFC 5246, section 6.3).
func (e *exported) keys() (*sealer, *opener, error) {
	if e.LocalEpoch != sealedEpoch || e.RemoteEpoch != sealedEpoch {
		return nil, nil, errEpoch
	}
	p, err := protectionOf(dtls.CipherSuiteID(e.CipherSuiteID))
	if err != nil {
		return nil, nil, err
	}
	keys, err := prf.GenerateEncryptionKeys(e.MasterSecret, e.RemoteRandom[:], e.LocalRandom[:], 0, p.key, p.iv, p.hash)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving keys: %w", err)
	}
	out, err := newAEAD(p, keys.ServerWriteKey, keys.ServerWriteIV)
	if err != nil {
		return nil, nil, err
	}
	in, err := newAEAD(p, keys.ClientWriteKey, keys.ClientWriteIV)
	if err != nil {
		return nil, nil, err
	}
	return &sealer{recordAEAD: out, number: e.SequenceNumber + spareNumbers}, &opener{recordAEAD: in}, nil
}

// recordAEAD protects the records of one direction. Nonce and info belong to who
// uses it, since what an interface is given would else be allocated.
type recordAEAD struct {
	aead     cipher.AEAD
	iv       [nonceSize]byte
	explicit int // explicit is how much of the nonce stands in the record.
	nonce    [nonceSize]byte
	info     [recordInfo]byte
}

func newAEAD(p protection, key, iv []byte) (recordAEAD, error) {
	a := recordAEAD{explicit: nonceSize - p.iv}
	copy(a.iv[:], iv)
	var err error
	a.aead, err = p.aead(key)
	return a, err
}

// prepare makes nonce and info for a record with so many bytes in it. Where no part of
// the nonce is explicit, the number is mixed into it (RFC 7905, section 2).
func (a *recordAEAD) prepare(header []byte, size int) {
	a.nonce = a.iv
	number := header[recordEpochAt:recordLengthAt]
	if a.explicit > 0 {
		copy(a.nonce[saltSize:], header[recordHeader:recordHeader+explicitNonce])
	} else {
		for i, b := range number {
			a.nonce[nonceSize-len(number)+i] ^= b
		}
	}
	copy(a.info[:], number)
	copy(a.info[len(number):], header[:recordEpochAt])
	binary.BigEndian.PutUint16(a.info[recordInfo-2:], uint16(size))
}

// sealer protects what the server sends. Its methods may be called by any goroutine.
type sealer struct {
	mu sync.Mutex
	recordAEAD
	number uint64 // number is that of the next record.
}

// seal appends a record to dst that holds head, body and so many zeros.
func (s *sealer) seal(dst []byte, kind byte, head, body []byte, zeros int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number > lastNumber {
		return dst, errNumbersUsed
	}
	number := sealedEpoch<<48 | s.number
	s.number++
	size := len(head) + len(body) + zeros
	start := len(dst)
	dst = append(dst, kind, dtlsMajor, dtlsMinor)
	dst = binary.BigEndian.AppendUint64(dst, number)
	dst = binary.BigEndian.AppendUint16(dst, uint16(s.explicit+size+tagSize))
	if s.explicit > 0 {
		dst = binary.BigEndian.AppendUint64(dst, number)
	}
	at := len(dst)
	dst = append(append(dst, head...), body...)
	dst = append(dst, padding[:zeros]...)
	s.prepare(dst[start:], size)
	return s.aead.Seal(dst[:at], s.nonce[:], dst[at:], s.info[:]), nil
}

// opener opens what the client sends, each record once. Its methods may be called by any goroutine.
type opener struct {
	mu sync.Mutex
	recordAEAD
	seen window
}

// open decrypts a record where it is. It reports false for one that is not the
// client's, or was there before.
func (o *opener) open(record []byte) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	body := record[recordHeader:]
	size := len(body) - o.explicit - tagSize
	number := binary.BigEndian.Uint64(record[recordEpochAt:]) & lastNumber
	if size < 0 || size > maxPayload || !o.seen.lacks(number) {
		return nil, false
	}
	o.prepare(record, size)
	sealed := body[o.explicit:]
	plain, err := o.aead.Open(sealed[:0], o.nonce[:], sealed, o.info[:])
	if err != nil {
		return nil, false
	}
	o.seen.note(number)
	return plain, true
}

// window knows which of the latest records have come (RFC 6347, section 4.1.2.6).
type window struct {
	next uint64 // next is above the highest number that has come.
	bits uint64 // bits say of the numbers below next, from the highest one down, which have come.
}

// lacks says whether a number has not come, as far as that is known.
func (w *window) lacks(number uint64) bool {
	if number >= w.next {
		return true
	}
	age := w.next - 1 - number
	return age < 64 && w.bits>>age&1 == 0
}

// note notes a number that is lacking.
func (w *window) note(number uint64) {
	if number >= w.next {
		w.bits = w.bits<<(number+1-w.next) | 1
		w.next = number + 1
		return
	}
	w.bits |= 1 << (w.next - 1 - number)
}
