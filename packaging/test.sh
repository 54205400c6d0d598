#!/usr/bin/env bash
# Runs every Go test once and writes what happens as `go test -json` does, for gotestsum in make test.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory executable OUT=bin/test/signal >/dev/null
export SIGNAL_EXECUTABLE=$PWD/bin/test/signal
packages=$(go list ./... | grep -v '/turnsrv$') # What cannot be listed ends the run here: it would not be tested.
parts=$(mktemp -d)
trap 'rm -r "$parts"' EXIT
status=0

tests() { go test -timeout 25m -json -shuffle=on "$@"; }

# The manifests' tests mostly wait for drains, so they run beside the others.
(cd k8s && tests -race ./...) >"$parts/k8s" &
k8s=$!

# So do those of turnsrv. What relays by data loops relays without them, too: its tests once more, but for those that relay both
# ways by themselves, and after the others, since two processes that test relays at a time take ports from each other. The race
# detector allocates, so what counts the allocations of signaling is not there with it.
relays() {
  local status=0
  tests -race ./turnsrv || status=1
  tests -skip 'Coturn|WebRTC|IPv6Relays|Fuzz|DataPathsDoTheSame|AttackMatrix' ./turnsrv -data-path=false || status=1
  tests -run 'AllocatesNothing$' ./signal || status=1
  return $status
}
relays >"$parts/relays" &
relays=$!

# The packages that take longest start first, and more at a time than there are cores: they wait more than they compute.
tests -race -p 4 ./packaging ./state ./signal ./assets ./signal/certificate ./signal/check . $packages || status=1

wait $k8s || status=1
wait $relays || status=1
cat "$parts"/*
exit $status
