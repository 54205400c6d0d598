#!/bin/sh
# Writes base/secrets.env with new secrets, unless it is there: they are all there is to back up.
set -eu
file=$(dirname "$0")/base/secrets.env
[ ! -e "$file" ] || exit 0
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
for name in REDIS_PASSWORD ADMIN_TOKEN TURN_SECRET SESSION_SECRET; do
  echo "$name=$(random)"
done >"$file"
echo "wrote $file: keep a copy of it"
