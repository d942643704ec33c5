package arch

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// group is a set of packages with the groups they may import, and why no others.
type group struct {
	packages []string // a trailing /... takes everything below; the longest match decides
	may      []string // names of groups; the packages of a group that names itself may import each other
	because  string
}

// groups is the architecture. A new package has to be put into one of them: that is a decision.
var groups = map[string]group{
	"domain": {
		packages: []string{"vortex"},
		because:  "the domain is what all parts share; it knows none of them",
	},
	"wire": {
		packages: []string{"vortex/proto/..."},
		because:  "generated from proto/",
	},
	"core": {
		packages: []string{
			"vortex/internal/kind", "vortex/internal/kind/backup", "vortex/internal/kind/ksl/...", "vortex/internal/kind/engine", "vortex/internal/kind/engine/swap", "vortex/internal/event", "vortex/internal/authz",
			"vortex/internal/loop", "vortex/internal/settings", "vortex/internal/runtime", "vortex/internal/cluster/pki",
			"vortex/internal/health", "vortex/internal/spec", "vortex/internal/rollout", "vortex/internal/scheduler",
		},
		may:     []string{"domain", "core"},
		because: "the core decides and stores; it must be testable without transport, drivers and loops",
	},
	"loop": {
		packages: []string{
			"vortex/internal/election", "vortex/internal/autoscale", "vortex/internal/deploy", "vortex/internal/placement", "vortex/internal/routes",
			"vortex/internal/nodes", "vortex/internal/endpoints", "vortex/internal/agent", "vortex/internal/edge/...", "vortex/internal/consensus",
		},
		may:     []string{"domain", "core"},
		because: "loops speak to each other through the store alone, so that each can be restarted, moved and tested by itself",
	},
	"kit": {
		packages: []string{
			"vortex/internal/runtime/bundle", "vortex/internal/runtime/shim", "vortex/internal/runtime/shim/layout",
			"vortex/internal/runtime/logfile", "vortex/internal/runtime/logread", "vortex/internal/runtime/oci/embedded",
			"vortex/internal/heartbeat", "vortex/internal/heartbeat/pulse",
		},
		may:     []string{"domain", "core", "kit"},
		because: "what drivers share lies beneath all of them",
	},
	"adapter": {
		packages: []string{
			"vortex/internal/kind/engine/etcd", "vortex/internal/kind/engine/postgres", "vortex/internal/kind/engine/remote", "vortex/internal/runtime/oci", "vortex/internal/runtime/docker",
			"vortex/internal/runtime/process", "vortex/internal/runtime/sim", "vortex/internal/image", "vortex/internal/network",
		},
		may:     []string{"domain", "wire", "core", "kit"},
		because: "an adapter fits one technology to a contract of the core; were it to know another, neither could be replaced",
	},
	"api": {
		packages: []string{"vortex/internal/api/...", "vortex/internal/cluster/join", "vortex/internal/cluster/images"},
		may:      []string{"domain", "wire", "core", "client", "api"},
		because:  "the API writes what was declared and reads the rest; it shares its types with the client and calls no loop",
	},
	"gossip": {
		packages: []string{"vortex/internal/cluster/gossip", "vortex/internal/cluster/bootstrap"},
		may:      []string{"domain", "core", "gossip"},
		because:  "it finds machines: what they are to each other is decided by those who ask it",
	},
	"session": {
		packages: []string{"vortex/internal/session"},
		may:      []string{"domain", "wire", "core", "kit"},
		because:  "it is transport and opinions: what follows from them is for loops, which never meet it",
	},
	"client": {
		packages: []string{"vortex/client"},
		may:      []string{"domain", "wire"},
		because:  "programs of others import it: it brings nothing of the server along",
	},
	"config": {
		packages: []string{"vortex/internal/config"},
		may:      []string{"domain", "core"},
		because:  "how a process is configured is known to main and node only",
	},
	"cli": {
		packages: []string{"vortex/internal/cli/..."},
		may:      []string{"domain", "wire", "core", "client", "config", "api", "cli"},
		because:  "the command line is a client like any other; of the API it takes the table of errors",
	},
	"node": {
		packages: []string{"vortex/internal/node"},
		may:      []string{"domain", "wire", "core", "loop", "kit", "adapter", "gossip", "session", "api", "client", "config"},
		because:  "the one place that knows who needs whom; no part may need it",
	},
	"cmd": {
		packages: []string{"vortex/cmd/..."},
		may:      []string{"domain", "wire", "core", "client", "config", "cli", "node"},
		because:  "main turns flags into a configuration, runs it and exits",
	},
	"helper": {
		packages: []string{"vortex/internal/runtime/oci/runner", "vortex/internal/runtime/shim/cmd", "vortex/internal/heartbeat/pulse/cmd"},
		may:      []string{"kit"},
		because:  "they stay beside every container: each megabyte counts",
	},
	"testkit": {
		packages: []string{
			"vortex/internal/kind/kindtest", "vortex/internal/kind/engine/enginetest", "vortex/internal/kind/engine/postgres/pgtest",
			"vortex/internal/runtime/runtimetest/...",
			"vortex/internal/api/apitest",
		},
		may:     []string{"domain", "wire", "core", "client", "adapter", "api", "testkit"},
		because: "suites and stores for tests; nothing that is shipped may import them",
	},
	"outside": {
		packages: []string{"vortex/examples/...", "vortex/deploy/...", "vortex/bench/...", "vortex/test/...", "vortex/tools/..."},
		may:      []string{"domain", "wire", "client", "outside"},
		because:  "they meet Vortex as its users do: the binary, the API and the client",
	},
}

// groupOf returns the group a package is in, "" when nobody has decided.
func groupOf(pkg string) (name string) {
	best := -1
	for n, g := range groups {
		for _, pattern := range g.packages {
			prefix, below := strings.CutSuffix(pattern, "/...")
			if (pkg == prefix || below && strings.HasPrefix(pkg, prefix+"/")) && len(prefix) > best {
				name, best = n, len(prefix)
			}
		}
	}
	return name
}

// family is the directory within which loops and parts of the API import each other: internal/edge, not internal/edge/route.
func family(pkg string) string {
	parts := strings.SplitN(pkg, "/", 4)
	return path.Join(parts[:min(3, len(parts))]...)
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from := groupOf(p.path)
		if from == "" {
			t.Errorf("%s is in no group: put it where it belongs in the table of this test", p.path)
			continue
		}
		for _, imported := range p.imports {
			if imported != "vortex" && !strings.HasPrefix(imported, "vortex/") {
				continue
			}
			to := groupOf(imported)
			within := from == "loop" && to == "loop" && family(p.path) == family(imported)
			if !within && !slices.Contains(groups[from].may, to) {
				t.Errorf("%s (%s) imports %s (%s): %s", p.path, from, imported, to, groups[from].because)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, rule := range []struct {
		in      []string // groups or packages
		imports []string // packages; a trailing /... takes everything below
		because string
	}{
		{[]string{"domain"}, []string{"os", "net", "net/http", "log", "log/slog", "os/exec", "syscall"}, "the domain does no I/O and does not log"},
		{
			[]string{"vortex/internal/scheduler", "vortex/internal/rollout"},
			[]string{"os", "net", "net/http", "log/slog", "vortex/internal/kind"},
			"these cores are pure: a snapshot in, a plan out",
		},
		{
			[]string{"core", "loop", "config"},
			[]string{"google.golang.org/grpc/...", "github.com/moby/moby/...", "go.etcd.io/...", "github.com/spf13/..."},
			"a technology belongs to its adapter",
		},
		{
			[]string{"domain", "core", "loop", "kit", "adapter", "api", "client", "config", "cli", "node", "cmd"},
			[]string{"testing", "io/ioutil", "math/rand", "github.com/pkg/errors", "github.com/sirupsen/logrus"},
			"testing stays out of what is shipped, and the others have successors",
		},
	} {
		for _, p := range packages(t) {
			if !slices.Contains(rule.in, p.path) && !slices.Contains(rule.in, groupOf(p.path)) {
				continue
			}
			for _, imported := range p.imports {
				if slices.ContainsFunc(rule.imports, func(pattern string) bool { return matches(pattern, imported) }) {
					t.Errorf("%s imports %s: %s", p.path, imported, rule.because)
				}
			}
		}
	}
}

func matches(pattern, pkg string) bool {
	prefix, below := strings.CutSuffix(pattern, "/...")
	return pkg == prefix || below && strings.HasPrefix(pkg, prefix+"/")
}

// The domain is everybody's: what it needs, all programs that import the client need too.
func TestDomainNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range packages(t) {
		if p.path != "vortex" {
			continue
		}
		for _, imported := range p.imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
				t.Errorf("the domain imports %s", imported)
			}
		}
	}
}
