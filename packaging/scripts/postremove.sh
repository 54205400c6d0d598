#!/bin/sh
# Runs after a removal (deb: remove, then purge; rpm: 0). What was configured, and certificates, go with the purge.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
case "$1" in purge | 0) ;; *) exit 0 ;; esac
[ "$1" = 0 ] || rm -rf /etc/signal /var/lib/signal
if getent passwd signal >/dev/null; then userdel signal; fi
