package assets_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/assets/pagetest"
)

// startProgram builds and runs the whole program on free ports of the loopback interface and
// returns the URL of its page. The test's end stops it.
func startProgram(t *testing.T, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "signal")
	if out, err := exec.Command("go", "build", "-o", binary, "cline-meet/signal").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(binary, "serve", "--server-host", "127.0.0.1", "--server-port", "0", "--admin-addr", "127.0.0.1:0",
		"--turn-listen", "127.0.0.1", "--turn-port", "0", "--turn-tls-port", "0", "--log-format", "json")
	cmd.Args = append(cmd.Args, flags...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line struct{ Msg, HTTP string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			if slices.Contains(flags, "--tls-cert") {
				return "https://" + line.HTTP + "/"
			}
			return "http://" + line.HTTP + "/"
		}
	}
	t.Fatal("the program ended before it served")
	return ""
}

// page is one person with the test page.
type page struct{ pagetest.Page }

// open opens the link as another person would.
func open(t *testing.T, browser pagetest.Browser, link string) page {
	t.Helper()
	return page{browser.Open(t, link)}
}

// connection is one element of window.signalPage.peers().
type connection struct {
	ID              string `json:"id"`
	ConnectionState string `json:"connectionState"`
	LocalType       string `json:"localType"`
	RemoteType      string `json:"remoteType"`
	Protocol        string `json:"protocol"`
	RelayProtocol   string `json:"relayProtocol"`
	FramesDecoded   int    `json:"framesDecoded"`
	DataChannel     string `json:"dataChannel"`
}

const peers = "window.signalPage.peers()"

// connected waits until the page decodes video of that many others, and goes on doing so.
func (p page) connected(others int) []connection {
	p.T.Helper()
	decoded := map[string]int{}
	first := pagetest.Until(p.Page, "video decodes", peers, func(c []connection) bool {
		return len(c) == others && !slices.ContainsFunc(c, func(c connection) bool {
			return c.ConnectionState != "connected" || c.FramesDecoded == 0 || c.DataChannel != "open"
		})
	})
	for _, c := range first {
		decoded[c.ID] = c.FramesDecoded
	}
	return pagetest.Until(p.Page, "decoded frames grow", peers, func(c []connection) bool {
		return len(c) == others && !slices.ContainsFunc(c, func(c connection) bool { return c.FramesDecoded < decoded[c.ID]+5 })
	})
}

type chatLine struct {
	Text string `json:"text"`
	Own  bool   `json:"own"`
}

// talk sends a chat line from one page and waits for it on the other.
func talk(from, to page, text string) {
	from.T.Helper()
	if _, err := pagetest.Evaluate[any](from.Page, fmt.Sprintf("window.signalPage.sendChat(%q), 0", text)); err != nil {
		from.T.Fatalf("sending a chat line: %v", err)
	}
	pagetest.Until(to.Page, "chat line arrives", "window.signalPage.chat", func(lines []chatLine) bool {
		return slices.Contains(lines, chatLine{text, false})
	})
}

func (p page) user() string {
	p.T.Helper()
	return pagetest.Until(p.Page, "joined", `window.signalPage.state === "joined" ? window.signalPage.userId : ""`,
		func(id string) bool { return id != "" })
}

// call opens a page for each of two people, waits until they see each other by the transport that
// the link asks for, and lets them chat.
func call(t *testing.T, browser pagetest.Browser, link, transport string) (a, b page) {
	t.Helper()
	a, b = open(t, browser, link), open(t, browser, link)
	for _, p := range []page{a, b} {
		for _, c := range p.connected(1) {
			t.Logf("selected pair: %s to %s over %s, relay protocol %q", c.LocalType, c.RemoteType, c.Protocol, c.RelayProtocol)
			if want, relayed := strings.CutPrefix(transport, "relay-"); relayed &&
				(c.LocalType != "relay" || c.RemoteType != "relay" || c.RelayProtocol != want) {
				t.Errorf("not relayed over %s: %+v", want, c)
			}
		}
	}
	talk(a, b, "hello from a")
	talk(b, a, "hello from b")
	return a, b
}

// TestCallOverTLS opens the page over HTTPS and relays over TURN in TLS.
func TestCallOverTLS(t *testing.T) {
	cert, key := writeCertificate(t)
	url, browser := startProgram(t, "--tls-cert", cert, "--tls-key", key), pagetest.Start(t)
	call(t, browser, url+"?autojoin=1&room=tls&transport=relay-tls", "relay-tls")
}

// writeCertificate makes a self-signed certificate for 127.0.0.1.
func writeCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, errCert := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	der, errKey := x509.MarshalPKCS8PrivateKey(key)
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	err = errors.Join(errCert, errKey,
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func TestTwoWindowsSeeAndHearEachOther(t *testing.T) {
	url, browser := startProgram(t), pagetest.Start(t)
	for _, transport := range []string{"all", "relay-udp", "relay-tcp"} {
		t.Run(transport, func(t *testing.T) {
			link := url + "?autojoin=1&room=" + transport + "&transport=" + transport
			a, b := call(t, browser, link, transport)

			t.Log("a reloads and is somebody new to b")
			before := a.user()
			a.Reload()
			after := a.user()
			if after == before {
				t.Errorf("%s has the same id after a reload", after)
			}
			pagetest.Until(b.Page, "b sees only the new one", "window.signalPage.users", func(users []string) bool {
				return slices.Equal(users, []string{b.user(), after})
			})
			a.connected(1)
			b.connected(1)
			talk(b, a, "welcome back")
		})
	}
}

func TestThreeTabsOfOneBrowser(t *testing.T) {
	link := startProgram(t) + "?autojoin=1&room=tabs&media=synthetic"
	browser := pagetest.Start(t)
	var pages []page
	users := map[string]bool{}
	sessions := map[string]bool{}
	for range 3 {
		p := page{browser.OpenTab(t, link)}
		pages = append(pages, p)
		user := p.user()
		users[user] = true
		sessions[user[:strings.LastIndex(user, "-")]] = true
	}
	if len(users) != 3 || len(sessions) != 1 {
		t.Errorf("three tabs are the participants %v of the sessions %v", users, sessions)
	}
	for _, p := range pages {
		p.connected(2)
	}
	talk(pages[0], pages[1], "to all")
	talk(pages[2], pages[0], "from the third")
}
