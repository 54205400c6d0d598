#!/usr/bin/env bash
# Compiles the release's executable of one platform: packaging/compile.sh amd64|arm64|armv7 writes
# dist/linux-PLATFORM/signal, the same bytes for the same commit and compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
platform=$1
case $platform in
amd64 | arm64) export GOARCH=$platform ;;
armv7) export GOARCH=arm GOARM=7 ;;
*) echo "compile.sh: $platform is none of amd64, arm64, armv7" >&2; exit 1 ;;
esac
export GOOS=linux
make --no-print-directory executable OUT="dist/linux-$platform/signal"
