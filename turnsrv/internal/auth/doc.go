// Package auth proves requests by the long-term credentials of RFC 8489, section
// 9.2, which are minted by the TURN-REST convention, makes nonces that every node
// with the same secrets accepts, and bounds how often a stranger gets an answer.
package auth
