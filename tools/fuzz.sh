#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each (default 5s). What one finds is left in its package's testdata/fuzz.
set -uo pipefail
cd "$(dirname "$0")/.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# fuzz DIR TARGET succeeds when nothing was found. `go test` also fails with "context deadline exceeded" when the time is over
# while its workers are just being told to end (go.dev/issue/75804); nothing was found then, and no input was written.
fuzz() {
	go test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-5s}" "$1" 2>&1 | tee "$output" && return 0
	grep -qE '^ +context deadline exceeded$' "$output" &&
		! grep -qE 'Failing input|panic:|fatal error:|_test\.go:[0-9]+:' "$output"
}

failed=()
while read -r dir; do
	while read -r target; do
		printf '%s %s\n' "$dir" "$target"
		fuzz "$dir" "$target" || failed+=("$dir $target")
	done < <(go test -list '^Fuzz' "$dir" | grep '^Fuzz')
done < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u)

if ((${#failed[@]})); then
	printf 'FAILED fuzz target: %s\n' "${failed[@]}"
	exit 1
fi
