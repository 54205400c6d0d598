package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"time"
)

// What one node publishes for another, a packet, begins with its kind and the id of the node that sent it. Packets
// and the records in a batch are as long as what carries them says. So a node can skip what it does not know: a
// packet or a record of another kind, and what follows the last field that it knows. It counts that, and loses
// nothing beside it. A node of protocol 1 skips only what follows a message and what it does not know in a view;
// it is sent nothing else that it does not know.
const (
	// packetBatch carries records of a stream: the number of the last record before, which the
	// receiver must have; the number of the first one here, the others follow; 1 if what is
	// missing before is lost for good; how many there are; the records.
	packetBatch = 'B'
	// packetAsk asks for everything after a record, by number, once more.
	packetAsk = 'A'
	// packetProbe is from a node to itself and carries a number.
	packetProbe = 'P'
)

// The kinds of records.
const (
	recordMessage = 'm'
	recordView    = 'v'
	recordBye     = 'b' // the node has ended in good order

	recordUnknown = 0 // of another kind
	recordBroken  = 1 // of a known kind, but not as it should be: it is lost
)

var errPacket = errors.New("malformed packet")

// record is one thing that a node has to say to another.
type record struct {
	kind    byte
	message Message
	change  change
	at      time.Time // when it was queued
	// of is told what became of a message, as of that copy; nil for the other kinds.
	of   *sending
	copy int
}

// size is about the memory that a record takes while it waits.
func (rec *record) size() int {
	return 128 + len(rec.message.Frame) + 64*len(rec.message.Receivers)
}

// packet is a decoded publish.
type packet struct {
	kind    byte
	source  string
	number  uint64 // packetAsk: the last record that the source has; packetProbe: which probe
	before  uint64
	first   uint64
	lost    bool
	records []record
	size    int // bytes
	fields  int // how many parts ended with fields that are not known
}

func appendText[T string | []byte](b []byte, text T) []byte {
	b = binary.AppendUvarint(b, uint64(len(text)))
	return append(b, text...)
}

func encodeNumber(kind byte, source string, number uint64) []byte {
	return binary.AppendUvarint(appendText([]byte{kind}, source), number)
}

// encodeRecord writes a record as it stands in a batch.
func encodeRecord(rec *record) []byte {
	b := []byte{rec.kind}
	switch rec.kind {
	case recordMessage:
		for _, text := range []string{rec.message.Op, rec.message.Room, rec.message.From, rec.message.To} {
			b = appendText(b, text)
		}
		return appendMessage(b, rec.message)
	case recordView:
		text, err := json.Marshal(rec.change)
		if err != nil {
			panic(err) // It is made of texts and numbers.
		}
		return append(b, text...)
	}
	return b
}

// appendMessage writes what a node of protocol 1 knows of a message, and behind it the rest.
func appendMessage(b []byte, m Message) []byte {
	b = appendText(b, m.Frame)
	for _, number := range []uint64{m.Key, m.Joined, m.Epoch, m.Run} {
		b = binary.AppendUvarint(b, number)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Receivers)))
	for _, to := range m.Receivers {
		b = appendText(b, to.ID)
		for _, number := range []uint64{to.Joined, to.Before, to.Number} {
			b = binary.AppendUvarint(b, number)
		}
	}
	return b
}

func decodeMessage(d *decoder, source string) Message {
	m := Message{Node: source, Op: string(d.text()), Room: string(d.text()), From: string(d.text()), To: string(d.text()), Frame: d.text()}
	if len(d.rest) == 0 {
		return m
	}
	m.Key, m.Joined, m.Epoch, m.Run = d.number(), d.number(), d.number(), d.number()
	for n := d.number(); n > 0 && !d.bad; n-- {
		m.Receivers = append(m.Receivers, Receiver{string(d.text()), d.number(), d.number(), d.number()})
	}
	return m
}

func encodeBatch(source string, before, first uint64, lost bool, blobs [][]byte) []byte {
	size := 64 + len(source)
	for _, blob := range blobs {
		size += len(blob) + binary.MaxVarintLen32
	}
	b := appendText(append(make([]byte, 0, size), packetBatch), source)
	b = binary.AppendUvarint(binary.AppendUvarint(b, before), first)
	if lost {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(blobs)))
	for _, blob := range blobs {
		b = appendText(b, blob)
	}
	return b
}

// decodePacket reads what a node published. Frames share memory with data.
func decodePacket(data []byte) (packet, error) {
	d := decoder{rest: data}
	p := packet{kind: d.byte(), source: string(d.text()), size: len(data)}
	switch p.kind {
	case packetAsk, packetProbe:
		p.number = d.number()
	case packetBatch:
		p.before, p.first, p.lost = d.number(), d.number(), d.byte() == 1
		for n := d.number(); n > 0 && !d.bad; n-- {
			p.records = append(p.records, p.decodeRecord(d.text()))
		}
		d.bad = d.bad || p.before >= p.first || p.first > math.MaxInt64
	default:
		return p, nil
	}
	if d.bad {
		return packet{}, errPacket
	}
	p.skip(d)
	return p, nil
}

// skip notes that a part of the packet had more fields than are known.
func (p *packet) skip(d decoder) {
	if len(d.rest) > 0 {
		p.fields++
	}
}

func (p *packet) decodeRecord(data []byte) record {
	d := decoder{rest: data}
	rec := record{kind: d.byte()}
	switch rec.kind {
	case recordMessage:
		rec.message = decodeMessage(&d, p.source)
		p.skip(d)
	case recordView:
		d.bad = json.Unmarshal(d.rest, &rec.change) != nil
	case recordBye:
		p.skip(d)
	default:
		return record{kind: recordUnknown}
	}
	if d.bad {
		return record{kind: recordBroken}
	}
	return rec
}

// decoder takes things off the front of rest. After the first that is not there it is bad and
// returns nothing any more.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) text() []byte {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	text := d.rest[:n:n]
	d.rest = d.rest[n:]
	return text
}
