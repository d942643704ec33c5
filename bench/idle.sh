#!/usr/bin/env bash
# 50,000 idle connections on a machine that allows them: make bench-idle.
#   JSON=path   also writes one JSON object a line
#   MEMORY=12G  of the virtual machine
# A container often may not have more than some thousand open files a process. Here the benchmark runs in QEMU, with a kernel of
# Debian's and everything it needs in the first file system. The processor is emulated: memory is what it is anywhere,
# times say only that answers come.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
./tools/deps.sh virtual
for program in nginx haproxy qemu-system-x86_64 busybox; do
	command -v $program >/dev/null || { echo "bench-idle needs $program" >&2; exit 1; }
done

work=$(mktemp -d /tmp/vortex-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,etc,var/log/nginx,var/lib/nginx,run,bench}

# with PROGRAM… puts programs and the libraries they need at their places.
with() {
	local file
	for file in "$@" $(ldd "$@" | grep -o '/[^ :]*' | sort -u); do
		[[ -e $root$file ]] || install -D "$file" "$root$file"
	done
}

kernel() { # kernel prints where Debian's kernel for virtual machines is.
	local package
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -1)
	(cd "$work" && apt-get download -qq "$package" >/dev/null 2>&1 && dpkg -x linux-image-*.deb kernel)
	compgen -G "$work/kernel/boot/vmlinuz-*"
}

export CGO_ENABLED=0
go build -trimpath -ldflags '-s -w' -o "$root/bench/" ./internal/edge/piped ./bench/edge/backend ./bench/edge/reverse
go build -trimpath -ldflags '-s -w' -o "$root/bench/vortex" ./cmd/vortex
go build -o "$root/bench/edge" ./bench/edge
with "$(command -v nginx)" "$(command -v haproxy)" /lib/x86_64-linux-gnu/libnss_files.so.2
cp -r /etc/nginx "$root/etc/"
cp /etc/passwd /etc/group "$root/etc/"
cp "$(command -v busybox)" "$root/bin/busybox"

# What the machine does instead of starting a system: it runs the benchmark and ends.
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev && mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 200000
export PATH=/bin:/usr/bin:/sbin:/usr/sbin VORTEX_BIN=/bench/vortex
echo "Linux $(uname -r), $(nproc) cores emulated, a process may have $(ulimit -n) open files"
/bench/edge -programs /bench -only idle -idle-rate 100 -json /tmp/json
echo "ended with $?"
sed 's/^/json: /' /tmp/json
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/root.gz"

echo "$(date --iso-8601=seconds), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(qemu-system-x86_64 --version | head -1), $(nginx -v 2>&1), $(haproxy -v | head -1)"
timeout 1800 qemu-system-x86_64 -M pc -accel tcg,thread=multi -cpu max -smp 2 -m "${MEMORY:-12G}" -nodefaults -no-reboot -display none -serial stdio \
	-kernel "$(kernel)" -initrd "$work/root.gz" -append 'console=ttyS0 quiet panic=-1' </dev/null | sed -u 's/\r//' | tee "$work/log" | grep --line-buffered -v '^json: '
[[ -z ${JSON:-} ]] || sed -n 's/^json: //p' "$work/log" >"$JSON"
grep -q '^ended with 0' "$work/log"
