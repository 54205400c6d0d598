// Package turntest is what tests of several rooms of the TURN server need: processes of their own,
// waiting, and real clients.
package turntest
