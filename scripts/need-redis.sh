#!/bin/sh
# Makes sure that redis-server is on PATH; the tests of store/redis start their
# own servers with it.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

if have redis-server; then
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	if have apt-get; then
		apt-get update -q >&2
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server >&2
	elif have dnf; then
		# Newer distributions ship Valkey in its place, with or without the old name.
		dnf install -y -q redis >&2 || dnf install -y -q valkey-compat-redis >&2
	elif have apk; then
		apk add --no-cache redis >&2
	fi
	if have redis-server; then
		exit 0
	fi
fi

cat >&2 <<'END'
redis-server is not on PATH. Install it:
  Debian, Ubuntu:  sudo apt-get install redis-server
  Fedora, RHEL:    sudo dnf install redis
  Alpine:          sudo apk add redis
  macOS:           brew install redis
END
exit 1
