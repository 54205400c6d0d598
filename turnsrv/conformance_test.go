package turnsrv

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// difference says that a server does not follow a row, what the row's check
// reports of it, and why that is so.
type difference struct{ does, reason string }

// peerWaits is what a check reports of a packet that does not come to a peer.
const peerWaits = "the peer waits"

// patience is how long a peer waits for a packet that must come. Where the table says that it waits in vain,
// that shows after a moment: whoever needs longer than that is taken for what the table says it is.
func (d difference) patience() time.Duration {
	if d.does == peerWaits {
		return wireQuiet
	}
	return wirePatience
}

// differences is by the name of the target.
type differences map[string]difference

// Reasons that several rows have.
const (
	cutsPackets        = "it reads packets of peers into 1600 bytes and relays what fits"
	draftFamily        = "it knows ADDITIONAL-ADDRESS-FAMILY by the number of the draft, 0x8032, and ignores 0x8000"
	ignoresFamily      = "it ignores address families, and every relay is IPv4"
	ignoresFingerprint = "it does not check FINGERPRINT"
	ignoresToken       = "it never looks a reservation up"
	ignoresUnknown     = "it ignores attributes it does not know"
	lifetimeAsIs       = "it takes any LIFETIME below an hour as it is"
	lingers            = "a deleted allocation lives on for a moment"
	noErrorCode        = "an error to CreatePermission has no ERROR-CODE"
	silentWithout      = "it looks for the allocation first and says nothing when there is none"
	takesAll           = "it takes attributes wherever they are"
)

// conformanceRow is one rule. Ours follows every one.
type conformanceRow struct {
	name    string // name starts with the section that has the rule.
	check   wireCheck
	differs differences // differs has an entry for each server that does not follow.
}

// conformance is the table, in the order of the RFCs.
var conformance = slices.Concat(stunRows, turnRows)

// TestConformance holds three servers against the table. That pion fails the
// rows which say so shows that the checks can fail; that coturn passes nearly
// all of them shows that they ask for what others do, too.
func TestConformance(t *testing.T) {
	for _, target := range []struct {
		name  string
		start func(*testing.T) *confTarget
	}{{targetOurs, startOurs}, {targetCoturn, startCoturn}, {targetPion, startPion}} {
		t.Run(target.name, func(t *testing.T) {
			server := target.start(t)
			t.Cleanup(server.close)
			for i, row := range conformance {
				t.Run(row.name, func(t *testing.T) {
					t.Parallel()
					row.run(t, target.name, &testbed{target: server, user: "user" + strconv.Itoa(i), patience: row.differs[target.name].patience()})
				})
			}
		})
	}
}

// run expects the check to pass, or to say what the table says it does.
func (r conformanceRow) run(t *testing.T, target string, b *testbed) {
	defer b.close()
	err := r.check(b)
	if errors.Is(err, errNotHere) {
		if target == targetOurs {
			systemtest.Unable(t, err.Error())
		}
		t.Log(err)
		return
	}
	d, differs := r.differs[target]
	switch {
	case !differs && err != nil:
		t.Error(err)
	case differs && err == nil:
		t.Errorf("passes, while the table says that %s does %q because %s", target, d.does, d.reason)
	case differs && !strings.Contains(err.Error(), d.does):
		t.Errorf("got %v, while the table says %q because %s", err, d.does, d.reason)
	}
}
