#!/usr/bin/env bash
# Runs every Go test once and writes what happens as `go test -json` does, for gotestsum in make test.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory executable OUT=bin/test/signal >/dev/null
export SIGNAL_EXECUTABLE=$PWD/bin/test/signal
parts=$(mktemp -d)
trap 'rm -r "$parts"' EXIT
status=0

# beside starts tests of which most of the time is waiting, so that they run beside the others, and keeps what happens in a file.
beside() {
  local file=$parts/$1 && shift
  go test "$@" >"$file" &
  waiting+=($!)
}
waiting=()

# The manifests' tests wait for drains.
beside k8s -C k8s -timeout 25m -json -race -shuffle=on ./...

# What relays by data loops relays without them, too: the tests of that once more.
beside turnsrv -timeout 25m -json -shuffle=on -skip 'Coturn|WebRTC|IPv6Relays|Fuzz' ./turnsrv -data-path=false

# The packages that take longest start first, and more at a time than there are cores.
go test -timeout 25m -json -race -shuffle=on -p 4 ./packaging ./turnsrv ./signal ./state ./assets ./... || status=1

# The race detector allocates, so the tests that count allocations skip themselves with it.
go test -timeout 25m -json -run 'AllocatesNothing$' ./signal || status=1

for tests in "${waiting[@]}"; do wait "$tests" || status=1; done
cat "$parts"/*
exit $status
