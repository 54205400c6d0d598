package signal

import "github.com/gorilla/websocket"

// A closeCode says in a close frame why the server ends a WebSocket. After 4000–4499 a client
// connects again, after 4500–4999 it does not. The table in README.md is for clients.
type closeCode int

const (
	// closeGoingAway: the server ends. The client connects again.
	closeGoingAway closeCode = websocket.CloseGoingAway
	// closeProtocol: the client broke RFC 6455. It must not come back.
	closeProtocol closeCode = websocket.CloseProtocolError
	// closeNotUTF8: the client sent a text that is not UTF-8. It must not come back.
	closeNotUTF8 closeCode = websocket.CloseInvalidFramePayloadData
	// closePolicy: too many of the client's messages were refused. It must not come back.
	closePolicy closeCode = websocket.ClosePolicyViolation
	// closeTooLarge: the client sent too much that was larger than MaxFrame. It must not come back.
	closeTooLarge closeCode = websocket.CloseMessageTooBig
	// closeSlow: more than MaxQueue waited for the client. It connects again, as somebody new.
	closeSlow closeCode = 4000
	// closeTimeout: nothing was heard within ReadTimeout. The client connects again, as somebody new.
	closeTimeout closeCode = 4001
	// closeLost: messages may be missing. The client connects again with its token, and the greeting tells of
	// the gap; after an error 410 it is somebody new.
	closeLost closeCode = 4002
	// closeUnavailable: the session to resume cannot be reached now. The client tries again, with the
	// same token.
	closeUnavailable closeCode = 4003
	// closeMemory: the node is short of memory, and the client held much of it. It connects again, as somebody new.
	closeMemory closeCode = 4004
	// closeReplaced: another connection has resumed the session. The client must not come back.
	closeReplaced closeCode = 4500
	// closeExpired: the token has expired and no other came in its place. The client must not come back with it.
	closeExpired closeCode = 4501
	// closeKicked: a moderator or the owner has removed the user. The client must not come back by itself.
	closeKicked closeCode = 4502
)

// frame returns the payload of the close frame.
func (c closeCode) frame(text string) []byte { return websocket.FormatCloseMessage(int(c), text) }
