// Package wire reads and writes STUN messages and ChannelData as bytes: whole
// messages and their attributes, the frames of a stream, and, without allocating,
// the indications that carry data. It knows no socket and no server.
package wire
