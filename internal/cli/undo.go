package cli

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

// undoOptions are the flags of undo.
type undoOptions struct {
	prefix                  string
	dryRun, yes, force, all bool
}

func (a *cli) undoCommand() *cobra.Command {
	var o undoOptions
	cmd := &cobra.Command{
		Use: "undo FROM..TO|REVISION", Short: "Take back changes of the state: bring back what was before them",
		Long: "Writes, in one transaction, what was there before the transactions from FROM to TO, both included. FROM.. goes on until now. " +
			"Each end is " + momentHelp + ".\n\n" +
			"It shows what it will write first. Keys that were changed again afterwards are refused unless --force is given. What the loops " +
			"of the cluster own is left out, for it follows from the rest. An undo is a change like any other: it can be undone.",
		Example: "  vortex undo 1234\n  vortex undo 10m.. --prefix vortex:app:web --dry-run",
		Args:    between(1, 1, "FROM..TO or a revision"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			from, to, err := parseSpan(args[0])
			if err != nil {
				return err
			}
			plan, err := k.PlanUndo(ctx, o.prefix, from, to, o.all)
			if err != nil {
				return err
			}
			return a.undo(ctx, k, plan, o)
		}),
	}
	cmd.Flags().StringVar(&a.kind, "kind", "", "host:port of the store (default: the server's; VORTEX_KIND)")
	cmd.Flags().StringVar(&o.prefix, "prefix", "", "only the keys that start with it")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be written")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.force, "force", false, "also take back what was changed again afterwards")
	cmd.Flags().BoolVar(&o.all, "all", false, "also what the loops of the cluster own")
	return cmd
}

// undo shows a plan, asks, and carries it out.
func (a *cli) undo(ctx context.Context, k *client.Kind, plan client.UndoPlan, o undoOptions) error {
	if a.tableOnly() {
		a.showUndo(plan)
	}
	if conflicts := plan.Conflicts(); len(conflicts) > 0 && !o.force {
		return conflictError(conflicts)
	}
	var revision uint64
	if len(plan.Writes) > 0 && !o.dryRun {
		if err := a.consent(o.yes, "undo"); err != nil {
			return err
		}
		var err error
		if revision, err = k.Undo(ctx, plan); err != nil {
			return err
		}
	}
	return a.tellUndone(plan, revision)
}

// conflictError lists what was changed again.
func conflictError(conflicts []client.UndoWrite) error {
	var b strings.Builder
	for _, w := range conflicts {
		fmt.Fprintf(&b, "\n%s", w.Key)
	}
	return vortex.Errorf(vortex.Conflict, "changed again afterwards, so undoing would take that back too:%s\nuse --force to do so, or undo the later changes as well", b.String())
}

// showUndo prints what will be written and what will not.
func (a *cli) showUndo(plan client.UndoPlan) {
	for _, w := range plan.Writes {
		a.sayChange(client.RecordChange{Key: w.Key, Before: w.Now, After: w.Then})
	}
	for _, key := range plan.Expired {
		a.note("%s has expired and stays away", key)
	}
	if len(plan.Derived) == 0 {
		return
	}
	counts := map[string]int{}
	for _, key := range plan.Derived {
		parts := strings.SplitN(key, ":", 3)
		counts[strings.Join(parts[:min(len(parts), 2)], ":")]++
	}
	var kinds []string
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", prefix, counts[prefix]))
	}
	a.note("%s", a.style.dim("left to the cluster, whose loops own it: "+strings.Join(kinds, ", ")+"; --all includes it"))
}

// tellUndone tells the outcome; revision is 0 when nothing was written.
func (a *cli) tellUndone(plan client.UndoPlan, revision uint64) error {
	changes := make([]recordChange, len(plan.Writes))
	for i, w := range plan.Writes {
		changes[i] = recordChangeOf(client.RecordChange{Key: w.Key, Before: w.Now, After: w.Then})
	}
	object := map[string]any{
		"revision": revision, "writes": changes,
		"derived": append([]string{}, plan.Derived...), "expired": append([]string{}, plan.Expired...), // none is [], not null
	}
	name := strconv.FormatUint(revision, 10)
	switch {
	case revision == 0 && a.output == "name":
		return nil
	case len(plan.Writes) == 0:
		return a.result(object, name, "nothing to undo: everything is as it was")
	case revision == 0:
		return a.result(object, name, "%s would be written; nothing was", keyCount(len(plan.Writes)))
	default:
		return a.result(object, name, "undone at revision %d, %s written; `vortex undo %d` takes it back", revision, keyCount(len(plan.Writes)), revision)
	}
}

// keyCount is so many keys, in words.
func keyCount(n int) string {
	if n == 1 {
		return "1 key"
	}
	return strconv.Itoa(n) + " keys"
}

// consent asks a person on a terminal whether to go on. Without a terminal --yes has to say so.
func (a *cli) consent(yes bool, what string) error {
	if yes {
		return nil
	}
	in, ok := a.env.Stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return errUsage("nobody can be asked here: add --yes to %s, or --dry-run to look", what)
	}
	_, _ = fmt.Fprintf(a.env.Stderr, "%s? [y/N] ", what)
	line, _ := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return vortex.Errorf(vortex.Precondition, "nothing was written")
	}
	return nil
}
