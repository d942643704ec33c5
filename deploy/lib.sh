# What deploy/up.sh and deploy/down.sh share. Sourced, from the repository's root.
# shellcheck shell=bash

export VORTEX_DATA=${VORTEX_DATA:-$PWD/data} # where this Vortex keeps everything
[[ $VORTEX_DATA == /* ]] || VORTEX_DATA=$PWD/$VORTEX_DATA

vortex=$PWD/bin/vortex
log=$VORTEX_DATA/vortex.log
pidfile=$VORTEX_DATA/vortex.pid

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

say() { printf '%s\n' "$*"; }
step() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }

# fail REASON [WHAT TO DO]…
fail() {
	printf 'error: %s\n' "$1" >&2
	shift
	(($# == 0)) || printf '  %s\n' "$@" >&2
	exit 1
}

# field NAME prints a field of the run file that a running Vortex leaves in its data directory.
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$VORTEX_DATA/run.json" 2>/dev/null; }

# running prints the process id of the Vortex on this data, and is false when there is none.
running() {
	local pid
	pid=$(field pid)
	[[ -n $pid && -e /proc/$pid/exe ]] && [[ $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) == *vortex*\ up\ * ]] && say "$pid"
}

# alive PID tells whether the process still runs; one that only waits to be reaped does not.
alive() { [[ -e /proc/$1/stat && $(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null) != [ZX] ]]; }

# launch FLAGS… starts Vortex in the background and waits until it serves.
launch() {
	local pid tries=600
	mkdir -p "$VORTEX_DATA" 2>/dev/null && [[ -w $VORTEX_DATA ]] ||
		fail "the data directory $VORTEX_DATA cannot be written by $(id -un)" "choose another: VORTEX_DATA=/some/where make up"
	setsid "$vortex" up --rm "$@" </dev/null >"$log" 2>&1 &
	pid=$!
	say "$pid" >"$pidfile"
	until [[ $(field pid) == "$pid" ]]; do
		alive "$pid" || refused
		((tries-- > 0)) || fail "Vortex was not ready within a minute" "its log: $log"
		sleep 0.1
	done
}

# refused says why Vortex ended while it started.
refused() {
	local reason
	reason=$(sed -n '/^error:/,$ s/^\(error: \)\{0,1\}//p' "$log")
	if [[ $reason =~ "cannot listen on "([^ ;]*):([0-9]+).*"with --"([a-z-]+) ]]; then
		local host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]} flag=${BASH_REMATCH[3]}
		flag=${flag^^}
		fail "$reason" "see who has it: ss -ltnp 'sport = :$port'" \
			"or listen elsewhere: VORTEX_${flag//-/_}=${host/'[::]'/}:$((port > 50000 ? port - 40000 : port + 10000)) make up"
	fi
	fail "${reason:-Vortex ended while starting}" "its log: $log"
}

# halt PID stops a Vortex in good order, with its containers.
halt() {
	local tries=900
	kill -TERM "$1" 2>/dev/null || true
	while alive "$1"; do
		((tries-- > 0)) || fail "process $1 has not stopped within 90 s" "its log: $log" "kill it: kill -9 $1; then make down again"
		sleep 0.1
	done
	rm -f "$pidfile"
}
