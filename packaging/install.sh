#!/bin/sh
# Installs signal as a service of systemd where no package fits, or removes it again.
#   packaging/install.sh [install|remove] [EXECUTABLE]     the executable is bin/signal unless named
# DESTDIR=DIR puts the files below DIR and touches no user and no service.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
action=${1:-install}
executable=${2:-$here/../bin/signal}
root=${DESTDIR:-}

say() { echo "install.sh: $*"; }

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
  say "only root can do that: run it with sudo, or set DESTDIR to look at the files" >&2
  exit 1
fi

install_files() {
  install -D -m 0755 "$executable" "$root/usr/bin/signal"
  install -D -m 0644 "$here/systemd/signal.service" "$root/etc/systemd/system/signal.service"
  install -d -m 0750 "$root/etc/signal"
  [ -e "$root/etc/signal/signal.yaml" ] || install -m 0640 "$here/signal.yaml" "$root/etc/signal/signal.yaml"
  [ -e "$root/etc/signal/secrets.env" ] || install -m 0600 "$here/secrets.env" "$root/etc/signal/secrets.env"
  install -d "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions"
  "$root/usr/bin/signal" man >"$root/usr/share/man/man1/signal.1"
  "$root/usr/bin/signal" completion bash >"$root/usr/share/bash-completion/completions/signal"
}

remove_files() {
  rm -f "$root/usr/bin/signal" "$root/etc/systemd/system/signal.service" \
    "$root/usr/share/man/man1/signal.1" "$root/usr/share/bash-completion/completions/signal"
}

case $action in
install)
  if [ ! -x "$executable" ]; then
    say "$executable is no executable: run make build, or name one" >&2
    exit 1
  fi
  install_files
  [ -n "$root" ] || sh "$here/scripts/postinstall.sh" 1
  say "installed; the settings are in $root/etc/signal"
  ;;
remove)
  [ -n "$root" ] || sh "$here/scripts/preremove.sh" remove
  remove_files
  say "removed; the settings are still in $root/etc/signal"
  ;;
*)
  say "$action: say install or remove" >&2
  exit 1
  ;;
esac
