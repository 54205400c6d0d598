package state

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
)

func TestPackets(t *testing.T) {
	records := []record{
		{kind: recordMessage, message: Message{Node: "n1", Op: "o", Room: "r", From: "a", To: "b", Frame: []byte("x")}},
		{kind: recordMessage, message: Message{Node: "n1", Room: "r", From: "a", Joined: 3, Key: 2, Run: 4, Frame: []byte("x"),
			Receivers: []Receiver{{ID: "b", Joined: 5, Before: 6, Number: 7}, {ID: "c"}}}},
		{kind: recordView, change: change{Room: "r", Version: 7, Members: []entry{{ID: "a", Node: "n1", Epoch: 1 << 63, Joined: 5}},
			Left: []Departure{{Member: Member{ID: "b", Node: "n2", Epoch: 3}, Reason: ReasonKick}}}},
		{kind: recordBye},
	}
	var blobs [][]byte
	for i := range records {
		blobs = append(blobs, encodeRecord(&records[i]))
	}
	data := encodeBatch("n1", 3, 5, true, blobs)
	got, err := decodePacket(data)
	want := packet{kind: packetBatch, source: "n1", before: 3, first: 5, lost: true, records: records, size: len(data)}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	data = encodeNumber(packetAsk, "n1", 9)
	got, err = decodePacket(data)
	if err != nil || !reflect.DeepEqual(got, packet{kind: packetAsk, source: "n1", number: 9, size: len(data)}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestPacketsOfNewerNodes reads what no node says yet: other kinds and more fields are skipped, and what is beside
// them is read.
func TestPacketsOfNewerNodes(t *testing.T) {
	known := encodeRecord(&record{kind: recordMessage, message: Message{From: "a", Frame: []byte("x")}})
	longer := binary.AppendUvarint(appendText(bytes.Clone(known), "more"), 9)
	broken := known[:len(known)/2]
	view := []byte(`v{"Room":"r","Version":7,"Since":8,"Members":[{"i":"a","n":"n1","e":1,"j":5,"z":{}}]}`)
	batch := encodeBatch("n1", 0, 1, false, [][]byte{[]byte("zanything"), known, {}, longer, broken, view, []byte("b!"), known})
	for name, data := range map[string][]byte{"batch": batch, "longer batch": append(bytes.Clone(batch), "more"...)} {
		p, err := decodePacket(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var kinds []byte
		for _, rec := range p.records {
			kinds = append(kinds, rec.kind)
		}
		want := []byte{recordUnknown, recordMessage, recordUnknown, recordMessage, recordBroken, recordView, recordBye, recordMessage}
		if !bytes.Equal(kinds, want) {
			t.Errorf("%s: records of the kinds %q, want %q", name, kinds, want)
		}
		if p.records[3].message.From != "a" || p.records[5].change.Members[0].ID != "a" || p.records[7].message.From != "a" {
			t.Errorf("%s: records %+v", name, p.records)
		}
		if fields := 2 + len(data) - len(batch); min(p.fields, 3) != min(fields, 3) {
			t.Errorf("%s: %d parts had more fields", name, p.fields)
		}
	}
	for _, data := range []string{"\x51\x02n1anything", "\x41\x02n1\x07more"} {
		if p, err := decodePacket([]byte(data)); err != nil || p.source != "n1" {
			t.Errorf("%q: %+v, %v", data, p, err)
		}
	}
}

// FuzzDecodePacket tries what might be published by somebody else: it must not crash, nor take more
// memory than there is text.
func FuzzDecodePacket(f *testing.F) {
	f.Add(encodeNumber(packetProbe, "n", 1))
	f.Add(encodeBatch("n", 0, 1, false, [][]byte{
		encodeRecord(&record{kind: recordMessage, message: Message{Frame: []byte("x")}}),
		encodeRecord(&record{kind: recordMessage, message: Message{Key: 1 << 63, Joined: 1, Run: 2, Receivers: []Receiver{{"a", 1, 2, 3}}}}),
		encodeRecord(&record{kind: recordView}), {recordBye}, []byte("znew")}))
	f.Add([]byte("Z\x01nwhat comes"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePacket(bytes.Clone(data))
		if err != nil {
			return
		}
		receivers := 0
		for _, rec := range p.records {
			receivers += len(rec.message.Receivers)
		}
		if len(p.records)+receivers > len(data) {
			t.Errorf("%d records with %d receivers of %d bytes", len(p.records), receivers, len(data))
		}
	})
}
