package turnsrv

import "math/rand/v2"

// freePorts are the ports of a range that nobody has, in the order in which they are given out: at first any order, then the
// one that has been free for longest comes first. What a peer still sends to a relay that is gone so reaches nobody for as long
// as there are other ports. They are a list in which each port has a place, that of port p is p-min+1, and 0 is both ends.
type freePorts struct {
	min        uint16
	next, prev []int32 // next is notFree for a port that is taken.
}

const notFree = -1

func newFreePorts(minPort, maxPort uint16) *freePorts {
	places := 1 // That of both ends.
	if minPort <= maxPort {
		places += int(maxPort) - int(minPort) + 1
	}
	f := &freePorts{min: minPort, next: make([]int32, places), prev: make([]int32, places)}
	for i := range f.next {
		f.next[i] = notFree
	}
	f.next[0] = 0
	for _, i := range rand.Perm(places - 1) {
		f.add(f.min + uint16(i))
	}
	return f
}

func (f *freePorts) place(port uint16) int { return int(port) - int(f.min) + 1 }

// has says whether a port is of the range and free.
func (f *freePorts) has(port uint16) bool {
	i := f.place(port)
	return i > 0 && i < len(f.next) && f.next[i] != notFree
}

// add makes a port that is taken free, as the last one.
func (f *freePorts) add(port uint16) {
	i, last := int32(f.place(port)), f.prev[0]
	f.next[last], f.prev[i] = i, last
	f.next[i], f.prev[0] = 0, i
}

// take takes a port that is free.
func (f *freePorts) take(port uint16) {
	i := f.place(port)
	f.next[f.prev[i]], f.prev[f.next[i]] = f.next[i], f.prev[i]
	f.next[i] = notFree
}

// oldest returns the port that has been free for longest of those that fit.
func (f *freePorts) oldest(fits func(port uint16) bool) (uint16, bool) {
	for i := f.next[0]; i != 0; i = f.next[i] {
		if port := f.min + uint16(i-1); fits(port) {
			return port, true
		}
	}
	return 0, false
}
