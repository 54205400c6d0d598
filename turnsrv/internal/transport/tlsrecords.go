package transport

import (
	"crypto/tls"
	"net"
	"sync"
)

// recordBatch is the connection under TLS. While it holds, records gather, to be
// written at once: TLS writes each by itself, and a system call for each frame is
// most of what it costs.
type recordBatch struct {
	net.Conn
	socket *gatherer // socket is Conn, which is read.

	mu      sync.Mutex
	holding bool
	records []byte
}

// HoldRecords returns a connection for TLS that a streamServer is to get without it.
func HoldRecords(conn net.Conn) net.Conn { return newRecordBatch(conn) }

func newRecordBatch(conn net.Conn) *recordBatch {
	socket := &gatherer{Conn: conn}
	return &recordBatch{Conn: socket, socket: socket}
}

// NetConn returns the connection under b.
func (b *recordBatch) NetConn() net.Conn { return b.Conn }

// layers are what may lie on the socket of a connection.
type layers struct {
	tcp   *net.TCPConn
	tls   *tls.Conn
	batch *recordBatch // batch is under the TLS.
}

// layersOf looks down through a connection.
func layersOf(conn net.Conn) (l layers) {
	for conn != nil {
		switch c := conn.(type) {
		case *net.TCPConn:
			l.tcp = c
		case *tls.Conn:
			l.tls = c
		case *recordBatch:
			l.batch = c
		}
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = under.NetConn()
	}
	return l
}

// hold makes Write gather until flush. One goroutine may hold at a time.
func (b *recordBatch) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = true
}

// flush writes what was gathered and holds no more.
func (b *recordBatch) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = false
	err := b.writeLocked()
	if cap(b.records) > keptBuffer {
		b.records = nil
	}
	return err
}

// Write implements net.Conn. TLS also answers while it reads; what it says then
// keeps its place among the records.
func (b *recordBatch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.holding {
		return b.Conn.Write(p)
	}
	b.records = append(b.records, p...)
	if len(b.records) < writeChunk {
		return len(p), nil
	}
	if err := b.writeLocked(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *recordBatch) writeLocked() error {
	if len(b.records) == 0 {
		return nil
	}
	_, err := b.Conn.Write(b.records)
	b.records = b.records[:0]
	return err
}
