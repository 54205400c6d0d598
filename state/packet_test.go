package state

import (
	"bytes"
	"reflect"
	"testing"
)

func TestPackets(t *testing.T) {
	records := []record{
		{kind: recordMessage, message: Message{Node: "n1", Op: "o", Room: "r", From: "a", To: "b", Frame: []byte("x")}},
		{kind: recordView, change: change{Room: "r", Version: 7, Members: []entry{{ID: "a", Node: "n1", Epoch: 1 << 63, Joined: 5}},
			Left: []Departure{{Member: Member{ID: "b", Node: "n2", Epoch: 3}, Reason: ReasonKick}}}},
		{kind: recordBye},
	}
	var blobs [][]byte
	for i := range records {
		blobs = append(blobs, encodeRecord(&records[i]))
	}
	got, err := decodePacket(encodeBatch("n1", 3, 5, true, blobs))
	want := packet{kind: packetBatch, source: "n1", before: 3, first: 5, lost: true, records: records}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = decodePacket(encodeNumber(packetAsk, "n1", 9))
	if err != nil || !reflect.DeepEqual(got, packet{kind: packetAsk, source: "n1", number: 9}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzDecodePacket tries what might be published by somebody else: it must not crash, nor take more
// memory than there is text.
func FuzzDecodePacket(f *testing.F) {
	f.Add(encodeNumber(packetProbe, "n", 1))
	f.Add(encodeBatch("n", 0, 1, false, [][]byte{encodeRecord(&record{kind: recordMessage, message: Message{Frame: []byte("x")}}),
		encodeRecord(&record{kind: recordView}), {recordBye}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePacket(bytes.Clone(data))
		if err == nil && len(p.records) > len(data) {
			t.Errorf("%d records of %d bytes", len(p.records), len(data))
		}
	})
}
