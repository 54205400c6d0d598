package check

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// malign runs a server that answers requests with an attribute each, for relays not before there is a credential. What it has no
// attribute for gets no answer.
func malign(t *testing.T, attributes map[stun.Method]stun.RawAttribute) (url string) {
	t.Helper()
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			request := &stun.Message{Raw: buffer[:n]}
			if request.Decode() != nil {
				continue
			}
			if answer := malignAnswer(request, attributes); answer != nil {
				_, _ = socket.WriteTo(answer.Raw, from)
			}
		}
	})
	t.Cleanup(func() { _ = socket.Close(); running.Wait() })
	return "turn:" + socket.LocalAddr().String() + "?transport=udp"
}

func malignAnswer(request *stun.Message, attributes map[stun.Method]stun.RawAttribute) *stun.Message {
	method := request.Type.Method
	attribute, ok := attributes[method]
	if !ok {
		return nil
	}
	id := stun.NewTransactionIDSetter(request.TransactionID)
	if method != stun.MethodBinding && !request.Contains(stun.AttrUsername) {
		return stun.MustBuild(id, stun.NewType(method, stun.ClassErrorResponse), stun.CodeUnauthorized, stun.NewRealm("r"), stun.NewNonce("n"))
	}
	answer := stun.MustBuild(id, stun.NewType(method, stun.ClassSuccessResponse))
	answer.Add(attribute.Type, attribute.Value)
	return answer
}

// TestHostileServers checks servers that answer with addresses which are too short, as STUN and as TURN servers.
func TestHostileServers(t *testing.T) {
	whole := stun.RawAttribute{Type: stun.AttrXORMappedAddress, Value: []byte{0, 1, 1, 2, 3, 4, 5, 6}}
	for _, family := range []byte{1, 2} {
		for _, length := range []int{0, 1, 2, 4, 7, 19} {
			if family == 1 && length > 7 {
				continue
			}
			value := append([]byte{0, family}, make([]byte, 20)...)[:length]
			mapped, relayed := stun.RawAttribute{Type: stun.AttrXORMappedAddress, Value: value}, stun.RawAttribute{Type: stun.AttrXORRelayedAddress, Value: value}
			for name, test := range map[string]struct {
				attributes map[stun.Method]stun.RawAttribute
				finds      string
			}{
				"mapped":  {map[stun.Method]stun.RawAttribute{stun.MethodBinding: mapped}, "server"},
				"relayed": {map[stun.Method]stun.RawAttribute{stun.MethodBinding: whole, stun.MethodAllocate: relayed}, "allocation"},
			} {
				t.Run(fmt.Sprintf("%s, family %d, %d bytes", name, family, length), func(t *testing.T) {
					marks := marksOf(t, malign(t, test.attributes))
					if marks[test.finds] != Wrong || marks["strangers"] != Skipped {
						t.Errorf("marks %v", marks)
					}
				})
			}
		}
	}
}

// TestSilenceIsNoRefusal checks a server that never answers requests for relays.
func TestSilenceIsNoRefusal(t *testing.T) {
	whole := stun.RawAttribute{Type: stun.AttrXORMappedAddress, Value: []byte{0, 1, 1, 2, 3, 4, 5, 6}}
	marks := marksOf(t, malign(t, map[stun.Method]stun.RawAttribute{stun.MethodBinding: whole}))
	if marks["server"] != Good || marks["strangers"] != Skipped || marks["allocation"] != Wrong {
		t.Errorf("marks %v", marks)
	}
}

// marksOf checks a server.
func marksOf(t *testing.T, url string) map[string]Mark {
	t.Helper()
	results, err := Run(t.Context(), Options{Timeout: 20 * time.Second, User: "alice", Password: "wonderland"}, url)
	if err != nil {
		t.Fatal(err)
	}
	marks := map[string]Mark{}
	for _, r := range results {
		marks[r.Name] = r.Mark
	}
	return marks
}
