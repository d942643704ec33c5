#!/usr/bin/env bash
# Runs every test: vet, the unit tests under the race detector, then the end-to-end tests against the built binary. What a
# machine cannot do is skipped, with the reason in the summary. `make test` installs Debian packages first where it may.
set -uo pipefail
cd "$(dirname "$0")/.."

reports=$(mktemp -d)
engine=
summary=()
failed=0

# cleanup ends the Docker Engine, if this script started it.
cleanup() {
	if [[ -n $engine ]]; then
		kill -TERM "$engine" 2>/dev/null
		wait "$engine" 2>/dev/null
	fi
	rm -rf "$reports"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# stage NAME COMMAND… runs a stage, shows its output as it comes, and keeps the outcome for the summary.
stage() {
	local name=$1 began=$SECONDS outcome=ok
	shift
	printf '\n==> %s\n' "$name"
	if ! "$@" 2>&1 | tee "$reports/${name// /-}"; then
		outcome=FAILED
		failed=1
	fi
	summary+=("$(printf '%-7s %-42s %4d s' "$outcome" "$name" $((SECONDS - began)))")
}

# start_engine starts the Docker Engine where it is installed and none answers, so that its driver is tested too.
start_engine() {
	command -v docker >/dev/null || return 0
	if docker version >/dev/null 2>&1 || ((EUID != 0)) || ! command -v dockerd >/dev/null; then
		return 0
	fi
	echo "starting the Docker Engine for the tests"
	if [[ -f /var/run/docker.pid ]] && ! [[ -e /proc/$(</var/run/docker.pid) ]]; then
		rm -f /var/run/docker.pid # of an engine that did not end well
	fi
	dockerd >"$reports/dockerd" 2>&1 </dev/null &
	engine=$!
	for _ in $(seq 300); do
		docker version >/dev/null 2>&1 && return 0
		kill -0 "$engine" 2>/dev/null || break
		sleep 0.1
	done
	echo "the Docker Engine did not start; its tests are skipped:"
	tail -3 "$reports/dockerd"
}

vet() { go vet ./...; }

build() { make --no-print-directory build; }

# The tests of the drivers, the network and the images share one kernel's tables: two packages at a time.
unit() {
	local packages
	mapfile -t packages < <(go list ./... | grep -Ev '^vortex/test/(cluster|e2e|edge|kind)')
	go test -race -shuffle=on -p 2 -timeout 15m "${packages[@]}"
}

# What it kills are processes of the built binary; the race detector would only slow the clients down.
prove() { go test -count=1 -timeout 15m ./test/kind/...; }

prove_edge() { go test -count=1 -timeout 10m ./test/edge/...; }

prove_cluster() { go test -count=1 -timeout 20m ./test/cluster/...; }

e2e() { go test -count=1 -timeout 15m ./test/e2e/...; }

skips() {
	((EUID == 0)) || echo "  not root: tests that make containers, networks and cgroups were skipped"
	docker version >/dev/null 2>&1 || echo "  no Docker Engine answers: tests of the docker runtime were skipped"
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null ||
		echo "  no PostgreSQL server: tests of the postgres engine were skipped"
	command -v etcd >/dev/null || echo "  no etcd program: tests of an external store were skipped"
}

start_engine
stage build build
stage vet vet
stage "unit tests under the race detector" unit
stage "proofs of the state store" prove
stage "proofs of the load balancer" prove_edge
stage "proofs of the cluster" prove_cluster
stage "end-to-end tests of the built binary" e2e

printf '\n==> Summary\n'
printf '  %s\n' "${summary[@]}"
skips
if ((failed)); then
	echo
	grep -hE '^(--- FAIL|FAIL|panic:|WARNING: DATA RACE)|^\s+--- FAIL' "$reports"/* | sort -u | head -40
	exit 1
fi
echo "  all tests passed in $SECONDS s"
