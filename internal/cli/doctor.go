package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/config"
)

func (a *cli) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run Vortex, and say what to do where it cannot", Args: none,
	}
	src := daemonFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := src.load(a)
		if err != nil {
			return err
		}
		return a.diagnose(cmd.Context(), cfg)
	}
	return cmd
}

// finding is the outcome of one check: ok, warn or fail.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	Advice  string `json:"advice,omitempty"`
}

func fine(check, detail string) finding          { return finding{check, "ok", detail, ""} }
func doubt(check, detail, advice string) finding { return finding{check, "warn", detail, advice} }
func broken(check, detail, advice string) finding {
	return finding{check, "fail", detail, advice}
}

// diagnose checks the machine and prints what it found. A check that failed makes the command fail.
func (a *cli) diagnose(ctx context.Context, cfg config.Config) error {
	server := a.checkServer(ctx)
	findings := []finding{checkSystem(), checkRoot(), checkCgroups(), checkOverlay(), checkNetfilter(), checkData(cfg.Data), a.checkDocker(ctx, cfg.DockerHost), server}
	findings = append(findings, checkPorts(ctx, cfg, server.Verdict == "ok")...)
	err := show(a, list[finding]{
		items: findings, object: findings, name: func(f finding) string { return f.Check },
		columns: []column[finding]{
			{"CHECK", false, func(f finding) string { return f.Check }},
			{"RESULT", false, func(f finding) string { return a.style.state(f.Verdict) }},
			{"DETAIL", false, func(f finding) string { return f.Detail }},
			{"WHAT TO DO", false, func(f finding) string { return f.Advice }},
		},
	})
	if err != nil {
		return err
	}
	var failed []string
	for _, f := range findings {
		if f.Verdict == "fail" {
			failed = append(failed, f.Check)
		}
	}
	if len(failed) > 0 {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "this machine cannot run everything: " + strings.Join(failed, ", ")}
	}
	return nil
}

func checkSystem() finding {
	detail := runtime.GOOS + "/" + runtime.GOARCH
	if runtime.GOOS != "linux" {
		return broken("system", detail, "servers and agents run on Linux; here the commands that talk to a server work")
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		detail += ", kernel " + strings.TrimSpace(string(release))
	}
	return fine("system", detail)
}

func checkRoot() finding {
	if os.Geteuid() == 0 {
		return fine("rights", "root")
	}
	return doubt("rights", fmt.Sprintf("user id %d", os.Geteuid()), "the oci runtime needs root; without it apps run as processes, or under Docker")
}

func checkCgroups() finding {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return fine("cgroups", "version 2")
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return fine("cgroups", "version 1")
	}
	return broken("cgroups", "none mounted below /sys/fs/cgroup", "mount them: systemd does, in a container run it with --privileged")
}

// checkOverlay looks for what image layers are stacked with.
func checkOverlay() finding {
	known, err := os.ReadFile("/proc/filesystems")
	switch {
	case err != nil:
		return doubt("overlayfs", "cannot be told", "")
	case strings.Contains(string(known), "overlay"):
		return fine("overlayfs", "there")
	default:
		return doubt("overlayfs", "not loaded", "run `modprobe overlay`")
	}
}

// checkNetfilter looks for what container networks and host ports are made with.
func checkNetfilter() finding {
	if _, err := os.Stat("/proc/sys/net/netfilter"); err == nil {
		return fine("netfilter", "there")
	}
	return doubt("netfilter", "not loaded", "run `modprobe nf_tables nf_nat`; without it containers reach nothing outside")
}

// minimumSpace is how much room images and logs should have.
const minimumSpace = 2 << 30

func checkData(dir string) finding {
	existing := dir
	for {
		if _, err := os.Stat(existing); err == nil || filepath.Dir(existing) == existing {
			break
		}
		existing = filepath.Dir(existing)
	}
	probe, err := os.MkdirTemp(existing, ".vortex-doctor-*")
	if err != nil {
		return broken("data directory", dir+" cannot be written", "choose another with --data, or run as its owner")
	}
	_ = os.Remove(probe)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(existing, &fs); err != nil {
		return fine("data directory", dir)
	}
	free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // block sizes are positive
	detail := dir + ", " + size(free) + " free"
	if free < minimumSpace {
		return doubt("data directory", detail, "images and logs need room: free at least "+size(minimumSpace))
	}
	return fine("data directory", detail)
}

// checkDocker asks the Docker Engine, which is needed for Dockerfiles and the docker runtime only.
func (a *cli) checkDocker(ctx context.Context, host string) finding {
	const name = "docker"
	host = cmp.Or(host, a.vars["DOCKER_HOST"], "unix:///var/run/docker.sock")
	network, addr, ok := strings.Cut(host, "://")
	if !ok || network != "unix" && network != "tcp" {
		return doubt(name, "address "+host+" is neither unix:// nor tcp://", "set --docker-host")
	}
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	dialer := &net.Dialer{}
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", http.NoBody)
	if err != nil {
		return doubt(name, err.Error(), "")
	}
	resp, err := hc.Do(req)
	if err != nil {
		return doubt(name, "no engine at "+host, "only needed to build Dockerfiles and for runtime: docker")
	}
	defer resp.Body.Close()
	return fine(name, "engine at "+host+", API "+orDash(resp.Header.Get("Api-Version")))
}

func (a *cli) checkServer(ctx context.Context) finding {
	const name = "server"
	ctx, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	t, err := a.resolve()
	if err != nil {
		return doubt(name, err.Error(), "")
	}
	c, err := client.New(client.Options{Server: t.server, Token: t.token, TLS: t.tls})
	if err != nil {
		return doubt(name, err.Error(), "")
	}
	ready, err := c.Ready(ctx)
	switch {
	case err != nil:
		return doubt(name, "none answers at "+t.server, "start one with `vortex up`")
	case !ready.Ready:
		return broken(name, t.server+" is not ready", "`vortex cluster health` says why")
	}
	if _, err := c.Cluster(ctx); vortex.IsKind(err, vortex.Unauthenticated) {
		return doubt(name, t.server+" answers, and its token is not known here", "`vortex login "+t.server+"`")
	}
	return fine(name, t.server+" is ready ("+t.source+")")
}

// checkPorts tries the addresses a server would listen on. While one runs they are its own.
func checkPorts(ctx context.Context, cfg config.Config, running bool) (findings []finding) {
	for _, p := range []struct{ name, addr, flag string }{
		{"API port", cfg.API, "--api"},
		{"store port", cfg.Kind, "--kind"},
		{"edge port", cfg.Edge, "--edge"},
	} {
		if p.addr == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.addr)
		switch {
		case err == nil:
			_ = l.Close()
			findings = append(findings, fine(p.name, p.addr+" is free"))
		case running:
			findings = append(findings, fine(p.name, p.addr+" is in use while a server runs"))
		default:
			findings = append(findings, broken(p.name, p.addr+" cannot be listened on", "choose another with "+p.flag+", or stop what uses it"))
		}
	}
	return findings
}
