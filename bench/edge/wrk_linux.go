package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// script lets wrk send requests for the hot routes in turn.
const script = `
local requests, n = {}, 0
init = function()
	for i = 0, %d do requests[i] = wrk.format("GET", "/some/path?n=" .. i, {Host = "app-" .. i * %d .. ".example"}) end -- one for each
end

request = function()
	n = (n + 1) %% %d
	return requests[n]
end
`

// counted is what wrk counted.
type counted struct {
	requests int
	took     time.Duration
}

// wrk sends as many requests as the proxy takes. Answers that are not good and broken connections are errors.
func (s *site) wrk(ctx context.Context, addr netip.AddrPort, conns int, d time.Duration) (counted, error) {
	path := filepath.Join(s.dir, "requests.lua")
	if err := os.WriteFile(path, fmt.Appendf(nil, script, hot-1, s.routes/hot, hot), 0o600); err != nil {
		return counted{}, err
	}
	command := []string{"wrk", "-t1", "-c" + strconv.Itoa(conns), "-d60s", "-s", path, "http://" + addr.String()}
	if len(s.layout.rest) > 0 {
		cores := make([]string, len(s.layout.rest))
		for i, c := range s.layout.rest {
			cores[i] = strconv.Itoa(c)
		}
		command = append([]string{"taskset", "-c", strings.Join(cores, ",")}, command...)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	stop := time.AfterFunc(d, func() { _ = cmd.Process.Signal(os.Interrupt) }) // wrk itself knows only whole seconds
	defer stop.Stop()
	out, err := cmd.Output()
	if err != nil {
		return counted{}, errors.Join(fmt.Errorf("wrk: %w", err), context.Cause(ctx))
	}
	return readWrk(string(out))
}

var (
	wrkTotal = regexp.MustCompile(`(\d+) requests in ([0-9.]+)(us|ms|s|m)`)
	wrkWrong = regexp.MustCompile(`Non-2xx.*|Socket errors.*`)
)

// readWrk reads what wrk printed.
func readWrk(out string) (counted, error) {
	if wrong := wrkWrong.FindString(out); wrong != "" {
		return counted{}, fmt.Errorf("wrk counted errors: %s", wrong)
	}
	match := wrkTotal.FindStringSubmatch(out)
	if match == nil {
		return counted{}, fmt.Errorf("wrk printed no total: %s", out)
	}
	n, err := strconv.Atoi(match[1])
	took, terr := time.ParseDuration(match[2] + match[3])
	if n == 0 {
		err = errors.Join(err, errors.New("wrk got no answer"))
	}
	return counted{n, took}, errors.Join(err, terr)
}
