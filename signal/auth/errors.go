package auth

import "net/http"

// A Reason is why somebody may not do something, as metrics count it.
type Reason string

const (
	ReasonMissing     Reason = "missing"     // there is no token
	ReasonMalformed   Reason = "malformed"   // it is no JWT, or one with ill-formed claims
	ReasonAlgorithm   Reason = "algorithm"   // it is signed in a way for which there is no key
	ReasonKey         Reason = "key"         // its key is not known, or was withdrawn
	ReasonSignature   Reason = "signature"   // the key has not signed it
	ReasonExpired     Reason = "expired"     // its time is over
	ReasonEarly       Reason = "early"       // its time has not come
	ReasonClaims      Reason = "claims"      // it is of another issuer or for another audience, or lacks a claim
	ReasonDenied      Reason = "denied"      // the backend said 401
	ReasonForbidden   Reason = "forbidden"   // the backend said 403
	ReasonSubject     Reason = "subject"     // a fresh token is somebody else's
	ReasonRoom        Reason = "room"        // the room is not allowed
	ReasonPublish     Reason = "publish"     // only who may publish may do this
	ReasonUnavailable Reason = "unavailable" // keys or backend cannot be reached
	ReasonCrowded     Reason = "crowded"     // the backend is asked as much as it may be
)

// Reasons are all there are.
var Reasons = []Reason{ReasonMissing, ReasonMalformed, ReasonAlgorithm, ReasonKey, ReasonSignature, ReasonExpired, ReasonEarly,
	ReasonClaims, ReasonDenied, ReasonForbidden, ReasonSubject, ReasonRoom, ReasonPublish, ReasonUnavailable, ReasonCrowded}

// An Error says why somebody may not do something, in words that it may read.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Code is the code of the wire contract, which is the HTTP status as well: 401 for who has to show
// another token, 403 for what is not allowed and 503 for what may work later.
func (e *Error) Code() int {
	switch e.Reason {
	case ReasonForbidden, ReasonSubject, ReasonRoom, ReasonPublish:
		return http.StatusForbidden
	case ReasonUnavailable, ReasonCrowded:
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}
