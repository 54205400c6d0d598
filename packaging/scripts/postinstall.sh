#!/bin/sh
# Runs after an installation (deb: configure, rpm: 1) or an upgrade (deb: configure VERSION, rpm: 2).
set -e
if ! getent passwd signal >/dev/null; then
  useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin signal
fi
chown root:signal /etc/signal /etc/signal/signal.yaml
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if [ "$1" = 2 ] || [ -n "$2" ]; then
  systemctl try-restart signal.service
else
  echo "signal is installed: edit /etc/signal/signal.yaml, then systemctl enable --now signal"
fi
