#!/usr/bin/env bash
# Runs every Go test once and writes what happens as `go test -json` does, for gotestsum in make test.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory executable OUT=bin/test/signal >/dev/null
export SIGNAL_EXECUTABLE=$PWD/bin/test/signal
parts=$(mktemp -d)
trap 'rm -r "$parts"' EXIT
status=0

# The manifests' tests mostly wait for drains, so they run beside the others.
go test -C k8s -timeout 25m -json -race -shuffle=on ./... >"$parts/k8s" &
k8s=$!

# The packages that take longest start first, and more at a time than there are cores.
go test -timeout 25m -json -race -shuffle=on -p 4 ./packaging ./turnsrv ./signal ./state ./assets ./... || status=1

# What relays by data loops relays without them, too: the tests of that once more. They come after the others, since
# two processes that test relays at a time take ports from each other.
go test -timeout 25m -json -shuffle=on -skip 'Coturn|WebRTC|IPv6Relays|Fuzz' ./turnsrv -data-path=false || status=1

# The race detector allocates, so the tests that count allocations are not there with it.
go test -timeout 25m -json -run 'AllocatesNothing$' ./signal || status=1

wait $k8s || status=1
cat "$parts/k8s"
exit $status
