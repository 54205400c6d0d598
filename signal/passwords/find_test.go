package passwords

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Chromium, Firefox and pion write passwords of these kinds.
const (
	chromium = "k1J+/q0Xl2tPz7mYx9aB3cDe"
	firefox  = "0f8b1f3c9c2f4b6d8e7a5c3b1d2e4f60"
	pion     = "wFhPqbYJvZkRcTnXsLmGdKyHtUoBiEaQ"
)

// sdp is one with the lines of a session and of its media sections.
func sdp(end string, session []string, sections ...[]string) string {
	lines := append([]string{"v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0"}, session...)
	for _, section := range sections {
		lines = append(append(lines, "m=audio 9 UDP/TLS/RTP/SAVPF 111"), section...)
	}
	return strings.Join(lines, end) + end
}

func credentials(ufrag, password string) []string {
	return []string{"a=ice-ufrag:" + ufrag, "a=ice-pwd:" + password}
}

func quoted(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// forms are the ways in which a message can carry an SDP.
func forms(sdp string) map[string]string {
	object := quoted(map[string]string{"sdp": sdp, "type": "offer"})
	slashes := strings.ReplaceAll(quoted(sdp), "/", `\/`) // Encoders of PHP write them so.
	return map[string]string{
		"object":        `{"type":"offer","user_id":"u","room_id":"r","target_id":"t","data":` + object + `}`,
		"string":        `{"type":"offer","user_id":"u","room_id":"r","target_id":"t","data":` + quoted(object) + `}`,
		"app message":   `{"type":"message","data":{"kind":"call","description":` + object + `,"more":[1,null,{"a":"b"}]}}`,
		"array":         `{"type":"message","data":[{"x":1},[` + object + `]]}`,
		"bare":          `{"type":"message","data":` + quoted(sdp) + `}`,
		"string thrice": `{"type":"message","data":` + quoted(quoted(object)) + `}`,
		"slashes":       `{"type":"offer","data":{"sdp":` + slashes + `}}`,
		"spaces":        "{ \"type\" : \"message\" ,\n \"data\" : " + quoted(" \n"+object+" ") + " }",
	}
}

func TestFindsThePasswordsOfEachSection(t *testing.T) {
	a, b, c := Password{"ab12", chromium}, Password{"0f8b1f3c", firefox}, Password{"wFhPqbYJvZkRcTnX", pion}
	session, one, two := credentials(a.Ufrag, a.Password), credentials(b.Ufrag, b.Password), credentials(c.Ufrag, c.Password)
	for _, test := range []struct {
		name     string
		session  []string
		sections [][]string
		want     []Password
	}{
		{"of the session", session, [][]string{nil, {"a=mid:0"}}, []Password{a}},
		{"of one section", nil, [][]string{one}, []Password{b}},
		{"of bundled sections", nil, [][]string{one, one, one}, []Password{b}},
		{"of sections that are not", nil, [][]string{one, two}, []Password{b, c}},
		{"of the session and one section", session, [][]string{nil, two}, []Password{a, c}},
		{"in the other order", nil, [][]string{{one[1], "a=mid:0", one[0]}}, []Password{b}},
		{"with the rest in the session", session[:1], [][]string{session[1:]}, []Password{a}},
		{"none", nil, [][]string{{"a=mid:0"}}, nil},
		{"no user name fragment", nil, [][]string{one[1:]}, nil},
		{"too short", nil, [][]string{credentials("abc", chromium), credentials("abcd", chromium[:21])}, nil},
		{"too long", nil, [][]string{credentials("abcd", strings.Repeat("x", 257))}, nil},
		{"with spaces", nil, [][]string{credentials("abcd", chromium+" x")}, nil},
	} {
		for _, end := range []string{"\r\n", "\n"} {
			for name, message := range forms(sdp(end, test.session, test.sections...)) {
				if got := Find([]byte(message)); !slices.Equal(got, test.want) {
					t.Errorf("%s, as %s: %v, want %v", test.name, name, got, test.want)
				}
			}
		}
	}
}

// TestFindsWhatIsNoWholeSDP has fragments, and several descriptions in one message.
func TestFindsWhatIsNoWholeSDP(t *testing.T) {
	a, b := Password{"ab12", chromium}, Password{"cd34", pion}
	fragment := strings.Join(append(credentials(a.Ufrag, a.Password), "m=audio 9 RTP/AVP 0", "a=mid:0", "a=candidate:1 1 UDP 1 192.0.2.1 9 typ host"), "\r\n")
	if got := Find([]byte(`{"type":"ice_candidate","data":{"candidate":` + quoted(fragment) + `}}`)); !slices.Equal(got, []Password{a}) {
		t.Errorf("of a fragment: %v", got)
	}
	both := sdp("\r\n", credentials(a.Ufrag, a.Password), nil) + sdp("\r\n", nil, credentials(b.Ufrag, b.Password))
	if got := Find([]byte(`{"data":` + quoted(both) + `}`)); !slices.Equal(got, []Password{a, b}) {
		t.Errorf("of two in one text: %v", got)
	}
	if got := Find([]byte(`{"data":[` + quoted(sdp("\n", credentials(a.Ufrag, a.Password))) + `,{"sdp":` + quoted(sdp("\n", nil, credentials(b.Ufrag, b.Password))) + `}]}`)); !slices.Equal(got, []Password{a, b}) {
		t.Errorf("of two texts: %v", got)
	}
}

// TestFindIsBounded has messages that are made to take long, or to tell much.
func TestFindIsBounded(t *testing.T) {
	var sections [][]string
	for i := range 10 * maxFound {
		sections = append(sections, credentials(fmt.Sprintf("ufrag%d", i), chromium))
	}
	if got := Find([]byte(quoted(sdp("\n", nil, sections...)))); len(got) != maxFound {
		t.Errorf("%d were found, want %d", len(got), maxFound)
	}
	deep := sdp("\n", credentials("abcd", chromium))
	for range maxDepth + 1 {
		deep = quoted(deep)
	}
	if got := Find([]byte(deep)); got != nil {
		t.Errorf("%v of a string in %d strings", got, maxDepth)
	}
	began := time.Now()
	Find([]byte(`{"data":"` + strings.Repeat("ice-pwd:", 1<<17) + `"}`))
	Find([]byte(strings.Repeat(`["ice-pwd:",`, 1<<17)))
	Find([]byte(strings.Repeat("[", 1<<20) + `"ice-pwd:"`))
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// FuzzFind looks for a password in whatever text, and for one that it has put in there.
func FuzzFind(f *testing.F) {
	for _, message := range forms(sdp("\r\n", credentials("ab12", chromium), credentials("0f8b1f3c", firefox))) {
		f.Add([]byte(message), "wFhPqbYJvZkRcTnX", pion)
	}
	f.Add([]byte(`{"data":"ice-pwd:\ud800"}`), "abcd", chromium)
	f.Add([]byte(`ice-pwd:`), "a\"b\\", firefox)
	f.Add([]byte("\xffice-pwd:\x00"), "////", "+/+/+/+/+/+/+/+/+/+/+/+/")
	f.Fuzz(func(t *testing.T, message []byte, ufrag, password string) {
		before := bytes.Clone(message)
		found := Find(message)
		if !bytes.Equal(message, before) {
			t.Fatalf("Find made %q of %q", message, before)
		}
		if len(found) > maxFound {
			t.Fatalf("%d were found", len(found))
		}
		for _, p := range found {
			if !p.IsValid() {
				t.Fatalf("%q was found", p)
			}
		}
		put := Password{ufrag, password}
		if !put.IsValid() {
			return
		}
		for name, form := range forms(sdp("\r\n", nil, credentials(ufrag, password))) {
			if got := Find([]byte(form)); !slices.Equal(got, []Password{put}) {
				t.Fatalf("as %s: %q, want %q", name, got, put)
			}
		}
	})
}
