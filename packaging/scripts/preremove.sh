#!/bin/sh
# Runs before a removal (deb: remove, rpm: 0); an upgrade restarts the service afterwards.
set -e
case "$1" in remove | 0) ;; *) exit 0 ;; esac
[ -d /run/systemd/system ] || exit 0
systemctl disable --now signal.service
