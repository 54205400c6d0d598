//go:build !linux

package bench

import (
	"errors"
	"net"
	"syscall"
	"time"
)

var errSystem = errors.New("this needs Linux")

type poller struct{}

type ready struct {
	number      int
	read, write bool
}

func newPoller() (*poller, error) { return nil, errSystem }

func (p *poller) close() {}

func (p *poller) watch(int, int, bool, bool, bool) error { return errSystem }

func (p *poller) wait(time.Duration, []ready) ([]ready, error) { return nil, errSystem }

func read(int, []byte) (int, error) { return 0, errSystem }

func write(int, []byte) (int, error) { return 0, errSystem }

func bare(net.Conn) (int, error) { return 0, errSystem }

func cut(int) {}

func narrow(string, string, syscall.RawConn) error { return errSystem }

func checkDescriptors(int) error { return errSystem }
