#!/usr/bin/env bash
# Installs what the tests use beside Go: a C compiler for the race detector, Chromium, Node, coturn's
# clients, Redis, and what containers and packages are tried with. Debian packages only, and only as
# root; elsewhere it says what is missing and what that skips. With CI=true a missing part is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

# command, Debian package, what needs it
parts="
gcc gcc the race detector
chromium chromium the browser tests
certutil libnss3-tools the test of a certificate that the browser trusts
node nodejs the tests of signal.js without a browser
npx npm the type check of the JavaScript
turnutils_uclient coturn the TURN interoperability tests
redis-server redis-server the shared state tests
redis-sentinel redis-sentinel the shared state tests with Sentinel
ip iproute2 the tests in network namespaces
curl curl the tests of the guides' commands
openssl openssl the tests of the guides' commands
dockerd docker.io the tests of the container image
docker-compose docker-compose the tests of compose.yaml
nginx nginx-light the tests of compose.yaml and of the proxies
/usr/lib/nginx/modules/ngx_stream_module.so libnginx-mod-stream the tests of the proxies
haproxy haproxy the tests of the proxies
caddy caddy the tests of the proxies
busybox busybox-static the tests of compose.yaml
debootstrap debootstrap the tests of the Debian package
rpm rpm the tests of the rpm package
promtool prometheus the tests of the alerts
systemd-analyze systemd the tests of the service's unit
"

missing() {
  while read -r command package use; do
    [ -z "$command" ] && continue
    PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || [ -e "$command" ] || printf '%s %s %s\n' "$command" "$package" "$use"
  done <<<"$parts"
}

packages=$(missing | cut -d' ' -f2 | sort -u)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing $(echo $packages)"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  # Debian starts what it installs; these servers are only for tests, which start their own.
  RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

missing | while read -r command package use; do
  echo "missing: $command (Debian package $package), so $use are skipped" >&2
done
if [ -n "$(missing)" ] && [ "${CI:-}" = true ]; then
  exit 1
fi
go mod download
