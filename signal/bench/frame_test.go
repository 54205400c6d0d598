package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"
)

func TestFramesOfEverySize(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 127, 1 << 10, 1<<16 - 1, 1 << 16, maxMessage} {
		payload := bytes.Repeat([]byte{'x', 'y', 'z'}, size/3+1)[:size]
		frame := appendFrame(nil, opText, payload, 0x01020304)
		// What a server sends is the same without the mask.
		header := len(frame) - size - 4
		key := binary.LittleEndian.Uint32(frame[header:])
		mask(frame[header+4:], key)
		plain := append(bytes.Clone(frame[:header]), frame[header+4:]...)
		plain[1] &^= maskedBit
		for _, short := range []int{0, 1, header, len(plain) - 1} {
			if short < len(plain) {
				if _, _, n, err := parseFrame(plain[:short]); n != 0 || err != nil {
					t.Fatalf("%d bytes of %d are a frame of %d, %v", short, len(plain), n, err)
				}
			}
		}
		op, got, n, err := parseFrame(append(plain, 0x81))
		if op != opText || n != len(plain) || err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes: op %d, %d of %d, %v", size, op, n, len(plain), err)
		}
	}
}

func TestFramesThatAreNotUnderstood(t *testing.T) {
	for name, frame := range map[string][]byte{
		"masked": {0x81, 0x81, 0, 0, 0, 0, 'x'}, "fragment": {0x01, 1, 'x'}, "continuation": {0x80, 1, 'x'},
		"compressed": {0xC1, 1, 'x'}, "huge": {0x81, 127, 0, 0, 1, 0, 0, 0, 0, 0},
	} {
		if _, _, _, err := parseFrame(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPayloadIsCheckedWhole(t *testing.T) {
	const size = 500
	for k := range kind(kinds) {
		data := appendData(nil, k, stamp{7, 1 << 40, 12345}, size)
		if len(data) != size || !json.Valid(data) {
			t.Fatalf("kind %d: %d bytes: %s", k, len(data), data)
		}
		if s, ok := readData(data, k, size); !ok || s != (stamp{7, 1 << 40, 12345}) {
			t.Errorf("kind %d: %+v, %v", k, s, ok)
		}
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 0x10
			if s, ok := readData(changed, k, size); ok && s == (stamp{7, 1 << 40, 12345}) {
				t.Errorf("kind %d: a change of byte %d is not seen", k, i)
			}
		}
		if _, ok := readData(data[:size-1], k, size); ok {
			t.Errorf("kind %d: a byte too few is not seen", k)
		}
	}
}

func TestTallySeesWhatIsWrong(t *testing.T) {
	var got tally
	for _, seq := range []uint64{0, 2, 1, 3, 3, 5} {
		got.take(seq)
	}
	if got.received != 5 || got.reordered != 1 || got.doubled != 1 {
		t.Errorf("received %d, reordered %d, doubled %d; want 5, 1, 1", got.received, got.reordered, got.doubled)
	}
}

// FuzzEachField compares what the scanner says of valid objects with encoding/json, and tests that it
// survives all others.
func FuzzEachField(f *testing.F) {
	for _, text := range []string{
		`{}`, ` { "type" : "offer" , "n" : 1.5e3 } `, `{"a":"\\","b":"\"","c":{"d":["}",1]},"e":null}`,
		`{"type":"offer","data":"{\"sdp\":\"v=0\\r\\n\"}"}`, `{"a":1`, `[1]`, `{"a"}`, `{"a":}`, `{"a":"`, `{"a":1}x`, ``,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := map[string]string{}
		repeated := false
		ok := eachField(text, func(name, value []byte) {
			_, had := got[string(name)]
			repeated = repeated || had
			got[string(name)] = string(value)
		})
		var want map[string]json.RawMessage
		if json.Unmarshal(text, &want) != nil || want == nil || repeated {
			return
		}
		if !ok || len(got) < len(want) {
			t.Fatalf("%q: %v, %q", text, ok, got)
		}
		for name, value := range want {
			if bytes.ContainsAny([]byte(name), "\\\"\ufffd") {
				return // Names are not decoded.
			}
			if raw, there := got[name]; there && raw != string(value) {
				t.Errorf("%q: %s is %s, not %s", text, name, raw, value)
			}
		}
	})
}
