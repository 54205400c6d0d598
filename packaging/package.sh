#!/usr/bin/env bash
# Makes the deb and the rpm of one platform in dist/: packaging/package.sh amd64|arm64|armv7
set -euo pipefail
cd "$(dirname "$0")/.."
platform=$1
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
packaging/compile.sh "$platform"
# The manual page and the completions come from the executable that this machine can run.
native=$(go env GOARCH | sed 's/^arm$/armv7/')
[ "$native" = "$platform" ] || packaging/compile.sh "$native"
native=dist/linux-$native/signal
mkdir -p dist/share
"$native" man | gzip -9n >dist/share/signal.1.gz
for shell in bash zsh fish; do "$native" completion "$shell" >"dist/share/signal.$shell"; done
gzip -9nc CHANGELOG.md >dist/share/changelog.gz
export ARCH=$platform PACKAGE_ARCH=${platform/armv7/arm7} VERSION=${VERSION:-0.0.0}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
for format in deb rpm; do
  go run "$nfpm" package --config packaging/nfpm.yaml --packager "$format" --target dist/
done
