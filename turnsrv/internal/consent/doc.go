// Package consent decides what may pass between an allocation and its peers: until a peer has shown by ICE that it wants to
// hear from the client, nothing but ICE's own checks. It knows no socket and no clock. Gate tells how it works.
package consent
