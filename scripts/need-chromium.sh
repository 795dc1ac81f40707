#!/bin/sh
# Makes sure that Chromium is on PATH; the end-to-end test of the JavaScript client
# SDK runs a page in it.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

found() { have chromium || have chromium-browser || have google-chrome || have google-chrome-stable; }

if found; then
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	if have apt-get; then
		apt-get update -q >&2
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium >&2
	elif have dnf; then
		dnf install -y -q chromium-headless >&2 || dnf install -y -q chromium >&2
	elif have apk; then
		apk add --no-cache chromium >&2
	fi
	if found; then
		exit 0
	fi
fi

cat >&2 <<'END'
Chromium is not on PATH. Install it:
  Debian:          sudo apt-get install chromium
  Fedora, RHEL:    sudo dnf install chromium-headless
  Alpine:          sudo apk add chromium
  elsewhere:       Google Chrome will do
END
exit 1
