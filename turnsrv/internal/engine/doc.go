// Package engine keeps allocations, with pion/turn, of which it is the only user.
// The engine sees no client and no data: who uses it has proved and checked every
// request, and repeats it on a Lane, under an id instead of an address.
//
// # Lanes
//
// pion/turn reads requests from sockets, one after the other, in one goroutine for
// each socket, its read loop. A Lane is such a socket without a network: a request
// that is made of it comes out of its ReadFrom, and what pion writes is the answer.
// That pion calls ReadFrom again says that the request is done with. While it is
// under way there is no other on the lane, so that when pion asks for a relay
// (AllocatePacketConn) it is clear whose that is.
//
// Shared lanes are for any goroutine. To make a request there is to hand it to the
// read loop over a channel and to wait for its answer, which wakes two threads.
//
// # The coroutine
//
// For a loop that serves most clients of a node that is too much, so it has a lane
// of its own, and the roles are turned round: not the loop calls pion, but pion
// calls the loop. The loop is a coroutine (iter.Pull) inside of the lane's ReadFrom.
//
//  1. pion's read loop calls ReadFrom, which resumes the loop with next.
//  2. The loop serves its clients, for as long as it likes. For pion it is as if no
//     packet came.
//  3. A client sends an Allocate. The loop opens a relay, makes the request and
//     yields it: this suspends the loop, in the middle of what it does.
//  4. next returns in ReadFrom, which hands the request to pion as a packet.
//  5. pion handles it, calls AllocatePacketConn and WriteTo of the same lane, and
//     then ReadFrom, which resumes the loop where it was.
//  6. The loop reads the answer and goes on as if it had called a function.
//
// All of that is one goroutine on one thread, no channel, no lock that anybody else
// holds. The price is that only the loop may use its lane, and only while it runs.
// What others have to tell the engine of allocations on it, that they are closed,
// waits in a list until the loop has time for ReleaseClosed.
package engine
