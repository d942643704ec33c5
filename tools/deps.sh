#!/usr/bin/env bash
# Installs what building or testing needs: as root on Debian by itself, elsewhere it says what is missing.
#   deps.sh build | test | bench | virtual
# What building needs must be there in the end; without what testing needs, the tests that need it are skipped.
set -euo pipefail

# Debian's package, and a command, or a file by a pattern, that shows that it, or something in its place, is there.
build=(gcc:gcc libc6-dev:/usr/include/stdlib.h libseccomp-dev:/usr/include/seccomp.h pkg-config:pkg-config)
test=("${build[@]}" docker.io:dockerd iproute2:ip nftables:nft iptables:iptables protobuf-compiler:protoc etcd-server:etcd
	"postgresql:/usr/lib/postgresql/*/bin/postgres")
bench=("${test[@]}" runc:runc wrk:wrk nginx:nginx haproxy:haproxy libnginx-mod-stream:/usr/lib/nginx/modules/ngx_stream_module.so)
virtual=("${bench[@]}" qemu-system-x86:qemu-system-x86_64 busybox-static:busybox)

PATH=$PATH:/usr/sbin:/sbin
declare -n wanted=${1:?build, test, bench or virtual}

# missing prints the packages in a list of which nothing is there.
missing() {
	local entry sign
	for entry in "$@"; do
		sign=${entry#*:}
		if [[ $sign == /* ]]; then
			compgen -G "$sign" >/dev/null || command -v "${sign##*/}" >/dev/null || echo "${entry%%:*}"
		else
			command -v "$sign" >/dev/null || echo "${entry%%:*}"
		fi
	done
}

# install installs packages without starting their services: an etcd on 2379 would be in the way of Vortex's own, and no test uses PostgreSQL's.
install() (
	policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null || exit 1
	command -v systemctl >/dev/null || exit 0
	[[ " $* " == *" etcd-server "* ]] && systemctl disable --quiet etcd 2>/dev/null
	[[ " $* " == *" postgresql "* ]] && systemctl disable --quiet postgresql 2>/dev/null
	exit 0
)

if ! command -v go >/dev/null; then
	echo "error: Go is missing; install Go 1.26 or newer from https://go.dev/dl/" >&2
	exit 1
fi

mapfile -t packages < <(missing "${wanted[@]}")
((${#packages[@]})) || exit 0

if ((EUID == 0)) && command -v apt-get >/dev/null; then
	echo "installing ${packages[*]}"
	if install "${packages[@]}"; then
		exit 0
	fi
	echo "these packages could not be installed: ${packages[*]}" >&2
elif command -v apt-get >/dev/null; then
	echo "missing: ${packages[*]}; install them with: sudo apt-get install ${packages[*]}" >&2
else
	echo "missing: what Debian calls ${packages[*]}; please install it" >&2
fi
mapfile -t packages < <(missing "${build[@]}")
((${#packages[@]} == 0)) # false: it cannot be built
