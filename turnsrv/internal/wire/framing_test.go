package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

func TestFramerSplits(t *testing.T) {
	var stream []byte
	var want [][]byte
	for _, frame := range [][]byte{
		wiretest.STUN(0), wiretest.ChannelData(0), wiretest.ChannelData(1), wiretest.ChannelData(4), wiretest.ChannelData(5), wiretest.STUN(12), wiretest.ChannelData(1200),
		wiretest.STUN(65484), wiretest.ChannelData(65503), wiretest.ChannelData(3), wiretest.STUN(8),
	} {
		want = append(want, frame)
		stream = append(stream, wiretest.Padded(frame)...)
	}
	for name, reader := range map[string]io.Reader{
		"at once":       bytes.NewReader(stream),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(stream)),
		"half of it":    iotest.HalfReader(bytes.NewReader(stream)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		f := NewFramer(reader)
		for i, frame := range want {
			got, err := f.Next()
			if err != nil || !bytes.Equal(got, frame) {
				t.Fatalf("%s, frame %d of %d bytes: %d bytes, %v", name, i, len(frame), len(got), err)
			}
		}
		if _, err := f.Next(); err != io.EOF {
			t.Errorf("%s, at the end: %v", name, err)
		}
	}
}

func TestFramerRefuses(t *testing.T) {
	request := wiretest.STUN(0)
	for name, stream := range map[string][]byte{
		"neither":                         {0x80, 0, 0, 0, 0, 0, 0, 0},
		"http":                            []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":                             {0x16, 3, 1, 0, 0xf4, 1, 0, 0, 0xf0},
		"channel data first":              {0x40, 1, 0, 0},
		"stun without cookie":             {0, 1, 0, 0, 1, 2, 3, 4},
		"stun with an odd length":         {0, 1, 0, 2, 0x21, 0x12, 0xa4, 0x42},
		"stun of the attack":              wiretest.STUN(0xffec)[:20],
		"largest stun":                    wiretest.STUN(0xfffc)[:20],
		"channel data of the attack":      append(request, 0x40, 0, 0xff, 0xfc),
		"channel data, one more":          append(request, 0x40, 0, 0xff, 0xfd),
		"channel data, two more":          append(request, 0x40, 0, 0xff, 0xfe),
		"largest channel data":            append(request, 0x40, 0, 0xff, 0xff),
		"neither after a frame":           append(request, 0xc0),
		"channel data above a datagram's": append(request, 0x40, 0, 0xff, 0xe0),
	} {
		f := NewFramer(bytes.NewReader(stream))
		var err error
		for err == nil {
			_, err = f.Next()
		}
		if !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFramerDeliversAtOnce gets a frame while its padding and all that follows
// is still to come.
func TestFramerDeliversAtOnce(t *testing.T) {
	for length := range 6 {
		reader, writer := io.Pipe()
		go func() {
			_, _ = writer.Write(append(wiretest.STUN(0), wiretest.ChannelData(length)...))
		}()
		f := NewFramer(reader)
		for _, want := range [][]byte{wiretest.STUN(0), wiretest.ChannelData(length)} {
			if got, err := f.Next(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("channel data of %d: %x, %v", length, got, err)
			}
		}
		_ = reader.Close()
	}
}

// TestFramerBuffer checks that a promise costs nothing and an idle stream little.
func TestFramerBuffer(t *testing.T) {
	f := NewFramer(bytes.NewReader(wiretest.STUN(60000)[:30]))
	if _, err := f.Next(); err != io.ErrUnexpectedEOF || cap(f.buffer) > minFrameBuffer {
		t.Errorf("after a promise: %v, %d bytes", err, cap(f.buffer))
	}
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(wiretest.STUN(60000))
		_, _ = writer.Write(wiretest.STUN(0))
		_ = writer.Close()
	}()
	f = NewFramer(reader)
	for _, size := range []int{60020, 20} {
		if got, err := f.Next(); len(got) != size || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if _, err := f.Next(); err != io.EOF || cap(f.buffer) > readAhead {
		t.Errorf("after a large frame: %v, %d bytes", err, cap(f.buffer))
	}
	if _, err := NewFramer(emptyReader{}).Next(); err != io.ErrNoProgress {
		t.Errorf("a reader that brings nothing: %v", err)
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

// chunkReader returns pieces whose sizes come from a list.
type chunkReader struct {
	rest  []byte
	sizes []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	size := len(p)
	if len(r.sizes) > 0 {
		size, r.sizes = int(r.sizes[0])+1, r.sizes[1:]
	}
	n := copy(p[:min(size, len(p))], r.rest)
	if n == 0 {
		return 0, io.EOF
	}
	r.rest = r.rest[n:]
	return n, nil
}

// splitPlainly is what a framer has to do, without a thought of memory or pieces.
func splitPlainly(stream []byte) (frames [][]byte, whole bool) {
	for len(stream) > 0 {
		size := ChannelHeader
		switch {
		case stream[0]>>6 == 0 && len(stream) >= 8 && binary.BigEndian.Uint32(stream[4:]) == stunCookie && stream[3]%4 == 0:
			size = STUNHeader
		case stream[0]>>6 == 1 && len(stream) >= ChannelHeader && len(frames) > 0:
		default:
			return frames, false
		}
		size += int(binary.BigEndian.Uint16(stream[2:]))
		if size > MaxFrame || size > len(stream) {
			return frames, false
		}
		frames = append(frames, stream[:size])
		stream = stream[min(Padded(size), len(stream)):]
	}
	return frames, true
}

// FuzzFraming reads any stream in any pieces.
func FuzzFraming(f *testing.F) {
	f.Add(append(wiretest.STUN(0), wiretest.Padded(wiretest.ChannelData(5))...), []byte{1, 2, 3})
	f.Add(append(wiretest.STUN(8), wiretest.ChannelData(1)...), []byte{})
	f.Add(wiretest.STUN(0xffec)[:20], []byte{0})
	f.Add(append(wiretest.STUN(0), 0x40, 0, 0xff, 0xfc), []byte{19})
	f.Add(append(wiretest.STUN(0), 0x40, 0, 0xff, 0xfd), []byte{255})
	f.Add(append(wiretest.STUN(1500), wiretest.Padded(wiretest.ChannelData(3000))...), []byte{255, 0, 255})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte{3})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		want, whole := splitPlainly(stream)
		framer := NewFramer(&chunkReader{rest: stream, sizes: sizes})
		for i := range want {
			got, err := framer.Next()
			if err != nil || !bytes.Equal(got, want[i]) {
				t.Fatalf("frame %d: %x, %v, want %x", i, got, err, want[i])
			}
		}
		frame, err := framer.Next()
		if err == nil || whole && err != io.EOF {
			t.Fatalf("after %d frames: %x, %v, whole %v", len(want), frame, err, whole)
		}
		if limit := max(2*len(stream), readAhead); len(framer.buffer) > limit {
			t.Fatalf("a buffer of %d bytes for %d", len(framer.buffer), len(stream))
		}
	})
}
