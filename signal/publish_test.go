package signal

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestSends judges SDPs as browsers write them, and as somebody writes them who means to get around that.
func TestSends(t *testing.T) {
	const (
		head  = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
		video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
		data  = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\n"
	)
	for sdp, want := range map[string]bool{
		head:                                   false,
		head + data:                            false,
		head + video + "a=recvonly\r\n" + data: false,
		head + video + "a=inactive\r\n":        false,
		head + video + "a=sendrecv\r\n":        true,
		head + video + "a=sendonly\r\n" + data: true,
		head + video + data:                    true,
		head + video + "a=recvonly\r\n" + video + "a=sendonly\r\n":                       true,
		head + video + "a=recvonly\r\na=sendrecv\r\n":                                    true,
		head + "a=recvonly\r\n" + video:                                                  false,
		head + "a=recvonly\r\n" + video + "a=sendrecv\r\n":                               true,
		head + "a=sendonly\r\na=recvonly\r\n" + video:                                    true,
		head + strings.Replace(video, " 9 ", " 0 ", 1):                                   false,
		head + strings.Replace(video, " 9 ", " 0 ", 1) + "a=bundle-only\r\n":             true,
		head + strings.Replace(video, " 9 ", " 0 ", 1) + "a=bundle-only\na=recvonly\n":   false,
		strings.ReplaceAll(head+video+"a=recvonly\r\n", "\r", ""):                        false,
		head + video + "A=RECVONLY\r\n":                                                  true,
		head + "m=audio\r\n":                                                             true,
		strings.ReplaceAll(head+data+video+"a=recvonly\r\na=sendonly\r\n", "\r\n", "\n"): true,
	} {
		plain, err := json.Marshal(map[string]string{"sdp": sdp, "type": "offer"})
		if err != nil {
			t.Fatal(err)
		}
		inString, err := json.Marshal(string(plain))
		if err != nil {
			t.Fatal(err)
		}
		if sends(plain) != want || sends(inString) != want {
			t.Errorf("sends is %v for %q", !want, sdp)
		}
	}
	for _, data := range []string{`{}`, `{"sdp":7}`, `"x"`, `"{\"sealed\":\"x\"}"`, ``} {
		if !sends([]byte(data)) {
			t.Errorf("%s may not send", data)
		}
	}
}
