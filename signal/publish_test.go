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
		head + video + "a=recvonly\r\na=sendrecv \r\n":                                   true, // Chromium takes it for the word.
		head + video + "a=recvonly\r\na=sendonly:1\r\n":                                  true,
		head + video + "a=recvonly \r\n":                                                 true,
		head + video + " a=recvonly\r\n":                                                 true,
		head + video + "a=recvonly\ra=inactive\r\n":                                      true,
		head + video + "a=recvonly\r\na=mid:0\ra=sendrecv\r\n":                           true,
		head + video + "a=recvonly\r\r\n":                                                true,
		head + "a=sendrecv \r\na=recvonly\r\n" + video:                                   true,
		head + strings.Replace(video, " 9 ", " 0 ", 1) + "a=bundle-only \r\n":            true,
		head + strings.Replace(video, " 9 ", " 00 ", 1):                                  true,
		head + "m=application 9 UDP/TLS/RTP/SAVPF 96\r\n":                                true,
		head + "m=APPLICATION 9 UDP/DTLS/SCTP webrtc-datachannel\r\n":                    true,
		head + "m=application\r\n":                                                       true,
		head + "m=application 9 DTLS/SCTP 5000\r\n":                                      false,
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
		if sends(offer, plain) != want || sends(answer, inString) != want || sends(iceCandidate, plain) != want {
			t.Errorf("sends is %v for %q", !want, sdp)
		}
	}
	for data, candidate := range map[string]bool{
		`{}`: false, `{"sdp":7}`: false, `"x"`: false, `"{\"sealed\":\"x\"}"`: false, ``: false, `{"candidate":"c","sdpMid":"0"}`: false,
		`{"sdp":"v=0","sdp":"m=audio 9 X 0"}`: true, `{"\u0073dp":"m=audio 9 X 0"}`: true, `{"SDP":"m=audio 9 X 0"}`: false,
	} {
		if !sends(offer, []byte(data)) || sends(iceCandidate, []byte(data)) != candidate {
			t.Errorf("%s as an offer or a candidate", data)
		}
	}
}
