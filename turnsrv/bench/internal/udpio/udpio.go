// Package udpio moves many datagrams with one system call: recvmmsg, sendmmsg,
// UDP_SEGMENT (GSO) and UDP_GRO of Linux on 64-bit machines. Elsewhere it is
// empty but for Supported.
package udpio
