#!/usr/bin/env bash
# Builds the container image of one platform without pulling anything: packaging/image.sh
# amd64|arm64|armv7 writes dist/signal-linux-PLATFORM.tar, which `docker load` takes as $IMAGE
# (signal:dev), and loads it where it can run. The digest is the same for the same commit.
set -euo pipefail
cd "$(dirname "$0")/.."
platform=$1
image=${IMAGE:-signal:dev}
if ! docker version >/dev/null 2>&1; then
  echo "image.sh: no Docker daemon answers: install docker.io and start it, or set DOCKER_HOST" >&2
  exit 1
fi
packaging/compile.sh "$platform"
arch=${platform%v7}
variant=${platform#"$arch"}
install -D -m 0644 -t dist/licenses LICENSE packaging/licenses.txt
built=$image-$platform # Not the tag itself, which is for what can run here.
{ sed '/^FROM .* AS build$/,$d' packaging/Dockerfile && printf 'COPY %s\n' "licenses /licenses" "linux-$platform/signal /signal"; } |
  docker build -q -f - -t "$built" --build-arg VERSION="${VERSION:-unknown}" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" dist >/dev/null
docker save "$built" | go run -C packaging/image . -tag "$image" -platform "linux/$arch${variant:+/$variant}" \
  -epoch "$(git log -1 --format=%ct 2>/dev/null || echo 0)" >"dist/signal-linux-$platform.tar"
native=$(go env GOARCH | sed 's/^arm$/armv7/')
[ "$platform" != "$native" ] || docker load -q <"dist/signal-linux-$platform.tar" >/dev/null
