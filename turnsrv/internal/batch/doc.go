// Package batch moves UDP datagrams of many sockets with few system calls, on
// Linux. It knows nothing of what is in them.
//
// A loop owns a Poller, an Inbox and an Outbox and goes round:
//
//	poller.Await()        sleeps until sockets can be read
//	inbox.Read(socket)    reads many datagrams with one call, trains of them merged
//	outbox.Add(slot, …)   collects what is to be sent, by destination
//	outbox.Flush()        sends trains as one write each, and all of a socket with one call
//	poller.Turned(…)      learns how much there was to do
//
// Nothing is copied on the way: packets are sent from where they were read. The
// more packets wait when the loop comes round, the less each of them costs. Hence
// a busy loop naps before it looks again, for a time that no call can notice (see
// pace), sleeps in the kernel without telling the Go scheduler, which would start
// a thread for every wake-up, and leaves another processor to the goroutines of the
// program meanwhile (see spareProcessor).
package batch
