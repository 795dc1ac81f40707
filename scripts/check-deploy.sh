#!/bin/sh
# Checks deploy/ with the tools that will read it: systemd's own check of the unit,
# Prometheus' parser of rules, Kubernetes' types. Needs the network for the last two.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if command -v systemd-analyze >/dev/null; then
	sed 's|^ExecStart=.*|ExecStart=/bin/true|' deploy/systemd/flagstead.service >"$work/flagstead.service"
	systemd-analyze verify "$work/flagstead.service"
	echo "deploy/systemd/flagstead.service: good"
else
	echo "systemd-analyze is not here; the unit was not checked" >&2
fi

cp scripts/check-deploy.go.txt "$work/main.go"
here=$PWD
cd "$work"
cat >go.mod <<'MOD'
module checkdeploy

go 1.26.0

require (
	github.com/prometheus/common v0.73.1
	k8s.io/api v0.37.2
	sigs.k8s.io/yaml v1.6.0
)
MOD
go mod tidy >/dev/null 2>&1
go run . "$here/deploy/prometheus/alerts.yaml" "$here/deploy/kubernetes/flagstead.yaml"
