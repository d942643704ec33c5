#!/usr/bin/env bash
# The main job's figures, beside docker and runc: make bench-main.
#   SHORT=1     less of everything, in under a minute
#   JSON=path   also writes one JSON object a line
#   ONLY=a,b    of start, idle, place, heal, metric, replicas
# It needs root on Debian: it installs docker.io and runc, starts dockerd when none runs, and ends what it started.
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
	echo "bench-main needs root: it makes containers and networks" >&2
	exit 1
fi
./tools/deps.sh bench

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
dockerd=
cleanup() {
	trap '' INT TERM
	if [[ -n $dockerd ]]; then
		kill "$dockerd" 2>/dev/null || true
		wait "$dockerd" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT

if ! docker info >/dev/null 2>&1; then
	dockerd >"$work/dockerd.log" 2>&1 &
	dockerd=$!
	for ((i = 0; i < 300; i++)); do
		docker info >/dev/null 2>&1 && break
		if ! kill -0 "$dockerd" 2>/dev/null; then
			tail -5 "$work/dockerd.log" >&2
			echo "dockerd did not start" >&2
			exit 1
		fi
		sleep 0.1
	done
fi

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/hello" ./examples/hello
go build -o "$work/mainjob" ./bench/mainjob

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo "docker $(docker version --format '{{.Server.Version}}'), $(runc --version | head -1), $(./bin/vortex version)"
arguments=(-hello "$work/hello")
[[ -n ${SHORT:-} ]] && arguments+=(-short)
[[ -n ${JSON:-} ]] && arguments+=(-json "$JSON")
[[ -n ${ONLY:-} ]] && arguments+=(-only "$ONLY")
"$work/mainjob" "${arguments[@]}"
echo "load afterwards $(cut -d' ' -f1-3 /proc/loadavg)"
