#!/usr/bin/env bash
# The state store's figures, beside etcd: make bench-kind.
#   SHORT=1     less of everything, in under a minute
#   JSON=path   also writes one JSON object a line
#   ONLY=a,b    of put, get, query, watch, memory, inprocess, postgres
# etcd and kine are built from the versions that bench/peers/go.mod and bench/kine/go.mod pin. PostgreSQL is the one that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
postgres=
cleanup() {
	trap '' INT TERM
	if [[ -n $postgres ]]; then
		kill -INT "$postgres" 2>/dev/null || true
		wait "$postgres" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT

# start_postgres starts an empty PostgreSQL server in its default settings, as another user when this one is root.
start_postgres() {
	local programs as=() database=$work/postgres
	programs=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1)
	mkdir "$database"
	if ((EUID == 0)); then
		chmod 711 "$work"
		chown postgres: "$database"
		as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
	fi
	(cd "$database" && "${as[@]}" "$programs/initdb" --auth=trust --username=postgres --encoding=UTF8 --locale=C -D "$database/data") >/dev/null
	port=$((20000 + RANDOM % 10000))
	(cd "$database" && exec "${as[@]}" "$programs/postgres" -D data -h 127.0.0.1 -p $port -k "$database") >"$work/postgres.log" 2>&1 &
	postgres=$!
	for ((i = 0; i < 300; i++)); do
		"$programs/pg_isready" -q -h 127.0.0.1 -p $port && return
		kill -0 "$postgres" 2>/dev/null || break
		sleep 0.1
	done
	tail -5 "$work/postgres.log" >&2
	return 1
}

(cd bench/peers && go build -o "$work/etcd" ./etcd)
go test -c -o "$work/kind.test" ./internal/kind
go build -o "$work/kind" ./bench/kind

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
echo "etcd $("$work/etcd" --version | sed -n 's/^etcd Version: //p'), $(./bin/vortex version)"
arguments=(-etcd "$work/etcd" -engine-bench "$work/kind.test")
if [[ -z ${ONLY:-} || ,$ONLY, == *,postgres,* ]] && compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
	(cd bench/kine && CGO_ENABLED=0 go build -o "$work/kine" .)
	start_postgres
	arguments+=(-postgres "postgres://postgres@127.0.0.1:$port" -kine "$work/kine")
fi
[[ -n ${SHORT:-} ]] && arguments+=(-short)
[[ -n ${JSON:-} ]] && arguments+=(-json "$JSON")
[[ -n ${ONLY:-} ]] && arguments+=(-only "$ONLY")
"$work/kind" "${arguments[@]}"
echo "load afterwards $(cut -d' ' -f1-3 /proc/loadavg)"
