#!/usr/bin/env bash
# Runs Docker Compose on compose.yaml, or on the files of $COMPOSE_FILE, with a Redis password that it
# makes once and keeps in dist/compose.env.
set -euo pipefail
cd "$(dirname "$0")/.."
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose) wait=--wait
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose) wait= # Version 1 waits for what others depend on, and that is all but the proxy.
else
  echo "compose.sh: Docker Compose is missing: install Docker's compose plugin, or on Debian docker-compose" >&2
  exit 1
fi
if [ "$1" != config ] && ! docker version >/dev/null 2>&1; then
  echo "compose.sh: no Docker daemon answers: install docker.io and start it, or set DOCKER_HOST" >&2
  exit 1
fi
environment=dist/compose.env
if [ ! -e "$environment" ]; then
  mkdir -p dist
  (umask 077 && echo "REDIS_PASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$environment")
fi
export COMPOSE_FILE=${COMPOSE_FILE:-packaging/compose.yaml} COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-signal}
[ "$1" != up ] || set -- "$@" $wait
exec "${compose[@]}" --env-file "$environment" "$@"
