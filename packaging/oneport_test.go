package packaging_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

const portSecret = "one-port-for-everything"

// startOnOnePort runs a node that has one port for all that clients reach it by.
func startOnOnePort(t *testing.T, flags ...string) (node *systemtest.Node, port string) {
	t.Helper()
	node = systemtest.StartNode(t, append([]string{"--one-port", "0", "--turn-secret", portSecret, "--turn-allow-peer", "127.0.0.1", "--drain-timeout", "1"}, flags...)...)
	if _, port, _ = net.SplitHostPort(node.HTTP); port != strconv.Itoa(node.Turn) {
		t.Fatalf("HTTP is at %s and TURN at %d", node.HTTP, node.Turn)
	}
	return node, port
}

// greeted opens a WebSocket and returns the ICE URLs of the greeting.
func greeted(t *testing.T, url string) []string {
	t.Helper()
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, HandshakeTimeout: systemtest.Patience} //nolint:gosec // self-signed
	ws, _, err := dialer.Dial(strings.Replace(url, "http", "ws", 1)+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.SetReadDeadline(time.Now().Add(systemtest.Patience))
	var greeting struct {
		Data struct{ ICEServers []struct{ URLs []string } }
	}
	if err := ws.ReadJSON(&greeting); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, s := range greeting.Data.ICEServers {
		urls = append(urls, s.URLs...)
	}
	return urls
}

// silence keeps connections open that say nothing, or the beginning of something, until the test ends. They come from
// several addresses, since one may not have so many.
func silence(t *testing.T, to string, count int) {
	t.Helper()
	begins := []string{"", "G", "\x00", "\x16", "\x16\x03\x01\x02\x00\x01\x00", "PROXY TCP4 "}
	ctx, cancel := context.WithCancel(t.Context())
	var running, open sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	open.Add(count)
	for i := range count {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%8))}}
		running.Go(func() {
			first := true
			for ctx.Err() == nil { // A node ends them after a while.
				conn, err := dialer.DialContext(ctx, "tcp", to)
				if err != nil {
					continue
				}
				_, _ = io.WriteString(conn, begins[i%len(begins)])
				if first {
					open.Done()
					first = false
				}
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				_, _ = io.Copy(io.Discard, conn)
				stop()
				_ = conn.Close()
			}
		})
	}
	open.Wait()
}

// split writes a byte at a time.
type split struct{ net.Conn }

func (s split) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if _, err := s.Conn.Write(p[n : n+1]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func connectSplit(t *testing.T, to string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
	_ = conn.(*net.TCPConn).SetNoDelay(true)
	return split{conn}
}

// asks sends a request for /health, or a STUN request, and wants the answer to begin in a certain way.
func asks(t *testing.T, conn net.Conn, request, answer string) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != answer {
		t.Errorf("the answer is %q, %v; want %q", got, err, answer)
	}
}

const (
	healthRequest  = "GET /health HTTP/1.1\r\nHost: example.org\r\n\r\n"
	bindingRequest = "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"
	bindingSuccess = "\x01\x01"
)

// coturn has coturn's client relay to a port with more flags.
func coturn(t *testing.T, port string, flags ...string) {
	t.Helper()
	systemtest.Need(t, "turnutils_uclient")
	args := slices.Concat(flags, []string{"-y", "-c", "-n", "20", "-m", "2", "-l", "170", "-u", "bob", "-W", portSecret, "-p", port, "127.0.0.1"})
	losesNothing(t, 40, func() (string, error) { return command(t, nil, "turnutils_uclient", args...) })
}

// TestOnePort has everybody come to one port at once.
func TestOnePort(t *testing.T) {
	systemtest.Need(t, "curl")
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "127.0.0.1"))
	node, port := startOnOnePort(t, "--tls-cert", cert, "--tls-key", key)
	silence(t, node.HTTP, 1000)
	t.Run("at once", func(t *testing.T) {
		at := func(name string, try func(t *testing.T)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				try(t)
			})
		}
		at("page and relay over TLS", func(t *testing.T) {
			browser := pagetest.Start(t)
			link := node.URL + "?autojoin=1&room=one-port&media=synthetic&transport=relay-tls"
			a, b := browser.Open(t, link), browser.Open(t, link)
			overTLS := func(c pagetest.Connection) bool { return c.Relayed() && c.RelayProtocol == "tls" }
			for _, p := range []pagetest.Page{a, b} {
				p.Connected(1, overTLS)
			}
			pagetest.Talk(a, b, "through the one port")
		})
		at("WebSocket", func(t *testing.T) {
			want := []string{"stun:127.0.0.1:" + port, "turn:127.0.0.1:" + port + "?transport=udp", "turns:127.0.0.1:" + port + "?transport=tcp"}
			if got := greeted(t, node.URL); !slices.Equal(got, want) {
				t.Errorf("the greeting names %q, want %q", got, want)
			}
		})
		for name, flags := range map[string][]string{"UDP": nil, "TCP": {"-t"}, "TLS": {"-t", "-S"}, "DTLS": {"-S"}} {
			at("coturn's client over "+name, func(t *testing.T) { coturn(t, port, flags...) })
		}
		at("curl", func(t *testing.T) {
			out := must(t, nil, "curl", "-sSk", "--http2", "-w", " HTTP/%{http_version}", node.URL+"health")
			if !strings.Contains(out, `"ok"`) || !strings.HasSuffix(out, " HTTP/1.1") {
				t.Errorf("curl says %s", out)
			}
		})
		at("HTTP/2 alone", func(t *testing.T) {
			conn, err := tls.Dial("tcp", node.HTTP, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // self-signed
			if err == nil {
				_ = conn.Close()
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("refused with %v", err)
			}
		})
		at("plain HTTP", func(t *testing.T) {
			out := must(t, nil, "curl", "-sS", "-w", " %{http_code}", "http://"+node.HTTP+"/")
			if !strings.Contains(out, "use https://") || !strings.HasSuffix(out, " 400") {
				t.Errorf("curl says %s", out)
			}
		})
		at("byte by byte", func(t *testing.T) {
			asks(t, connectSplit(t, node.HTTP), healthRequest, "HTTP/1.1 400 ")
			asks(t, connectSplit(t, node.HTTP), bindingRequest, bindingSuccess)
			for request, answer := range map[string]string{healthRequest: "HTTP/1.1 200 OK", bindingRequest: bindingSuccess} {
				conn := tls.Client(connectSplit(t, node.HTTP), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
				asks(t, split{conn}, request, answer)
			}
		})
		at("health", func(t *testing.T) {
			systemtest.Until(t, "the node says how it is", func() error { // The program gives up sooner than we.
				out, err := command(t, nil, systemtest.Executable(t), "health", "--server-host", "127.0.0.1", "--one-port", port, "--turn-listen", "127.0.0.1", "--tls-cert", cert, "--tls-key", key)
				if err != nil {
					return errors.New(out)
				}
				return nil
			})
		})
	})
}

// TestOnePortInClearText is the port behind a proxy that takes TLS off.
func TestOnePortInClearText(t *testing.T) {
	node, port := startOnOnePort(t)
	silence(t, node.HTTP, 100)
	contract(t, node.URL+"ws")
	want := []string{"stun:127.0.0.1:" + port, "turn:127.0.0.1:" + port + "?transport=udp", "turn:127.0.0.1:" + port + "?transport=tcp"}
	if got := greeted(t, node.URL); !slices.Equal(got, want) {
		t.Errorf("the greeting names %q, want %q", got, want)
	}
	for _, flags := range [][]string{nil, {"-t"}} {
		coturn(t, port, flags...)
	}
	asks(t, connectSplit(t, node.HTTP), healthRequest, "HTTP/1.1 200 OK")
	asks(t, connectSplit(t, node.HTTP), bindingRequest, bindingSuccess)
	asks(t, connectSplit(t, node.HTTP), "\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400 ")
}

// descriptors counts the open files of a process.
func descriptors(pid int) int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(files)
}

// TestOnePortBoundsAnAddress floods a node from one address, which gets no more than it may.
func TestOnePortBoundsAnAddress(t *testing.T) {
	node, _ := startOnOnePort(t, "--address-connections", "4")
	const each = 8 * 4
	for range 3 * each {
		_ = connectSplit(t, node.HTTP)
	}
	systemtest.Until(t, "the rest is closed", func() error {
		if n := descriptors(node.PID()); n > each+60 {
			return fmt.Errorf("%d descriptors", n)
		}
		return nil
	})
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, 1)}}
	conn, err := dialer.Dial("tcp", node.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	asks(t, conn, bindingRequest, bindingSuccess)
}
