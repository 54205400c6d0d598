#!/usr/bin/env bash
# Makes everything of a release in dist/: packaging/release.sh PLATFORM...
set -euo pipefail
cd "$(dirname "$0")/.."
if ! docker version >/dev/null 2>&1; then
  echo "release.sh: no Docker daemon answers: install docker.io and start it, or set DOCKER_HOST" >&2
  exit 1
fi
version=${VERSION:-0.0.0}
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
mkdir -p dist
rm -f dist/*.deb dist/*.rpm dist/*.tar dist/*.tar.gz dist/*.json dist/SHA256SUMS

# archive packs the executable and what install.sh puts beside it.
archive() {
  local name=signal-$version-linux-$1 && rm -rf "dist/$name" && mkdir -p "dist/$name/bin" "dist/$name/packaging"
  cp "dist/linux-$1/signal" "dist/$name/bin"
  cp README.md LICENSE CHANGELOG.md "dist/$name"
  cp -r packaging/{install.sh,systemd,scripts,signal.yaml,secrets.env,licenses.txt} "dist/$name/packaging"
  tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --mode=u=rwX,go=rX -c "$name" |
    gzip -9n >"dist/$name.tar.gz"
  rm -r "dist/$name"
}

for platform in "$@"; do
  packaging/package.sh "$platform"
  packaging/image.sh "$platform"
  archive "$platform"
  bill=dist/signal-$version-linux-$platform.cdx.json
  go run "$sbom" bin -json -std -version "$version" -output "$bill" "dist/linux-$platform/signal"
  go run ./packaging/bill "$bill" packaging/licenses.txt LICENSE
done
(cd dist && sha256sum -- *.deb *.rpm *.tar *.tar.gz *.cdx.json >SHA256SUMS)
echo "dist/SHA256SUMS names what was made"
