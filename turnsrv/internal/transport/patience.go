package transport

import (
	"net"
	"time"
)

// patience is how long a connection is waited for. The goroutine that reads it owns
// it.
type patience struct {
	conn     net.Conn
	idle     time.Duration // idle is how long it may go without a message.
	deadline time.Time     // deadline is when reading fails.
}

// wait sets how long to wait for the next message.
func (p *patience) wait(limit time.Duration) {
	p.deadline = time.Now().Add(limit)
	_ = p.conn.SetReadDeadline(p.deadline)
}

// renew waits for the next message as long as it may take, and sets the deadline
// only if that makes much of a difference.
func (p *patience) renew() {
	if remaining := time.Until(p.deadline); remaining < p.idle-p.idle/16 || remaining > p.idle {
		p.wait(p.idle)
	}
}
