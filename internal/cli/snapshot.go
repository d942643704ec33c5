package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/backup"
)

func (a *cli) snapshotCommand() *cobra.Command {
	cmd := group("snapshot", "Save, check and restore the state store",
		a.snapshotSaveCommand(), a.snapshotStatusCommand(), a.snapshotRestoreCommand())
	cmd.Aliases = []string{"backup"}
	cmd.Long = "Saves the whole state store at one revision, checks what was saved, and brings it back.\n" +
		"A server keeps snapshots and a log of every transaction by itself when it is given `--backup-dir`."
	return cmd
}

// savedSnapshot is what save tells.
type savedSnapshot struct {
	backup.Summary

	Path string `json:"path"`
}

func (a *cli) snapshotSaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "save FILE|-", Short: "Save the state of the running server's store to a file, or to stdout",
		Long: "Saves every record as of one revision, while the server goes on. The file appears whole or not at all, and is read\n" +
			"back and checked before it does.",
		Example: "  vortex snapshot save monday.snap\n  vortex snapshot save - | ssh backup 'cat > monday.snap'",
		Args:    between(1, 1, "a file, or - for stdout"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			if args[0] == "-" {
				if a.tty {
					return errUsage("a snapshot is not for a terminal: name a file, or send stdout elsewhere")
				}
				return k.Snapshot(ctx, a.env.Stdout)
			}
			if err := placeFor(args[0]); err != nil {
				return err
			}
			var sum backup.Summary
			err := backup.WriteFile(args[0],
				func(f *os.File) error { return k.Snapshot(ctx, f) },
				func(path string) (err error) { sum, err = backup.Verify(path, nil); return err })
			if err != nil {
				return fmt.Errorf("nothing was saved: %w", err)
			}
			return a.result(savedSnapshot{sum, args[0]}, args[0], "%s saved: %s at revision %d, %s",
				args[0], count(sum.Records, "record"), sum.Revision, size(uint64(sum.Bytes))) //nolint:gosec // no file has a negative size
		}),
	}
	cmd.Flags().StringVar(&a.kind, "kind", "", "host:port of the store (default: the server's; VORTEX_KIND)")
	return cmd
}

// placeFor refuses a path where no file can be.
func placeFor(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return errUsage("expected a file to save to, %s is a directory", path)
	}
	if dir := filepath.Dir(path); !isDirectory(dir) {
		return vortex.Errorf(vortex.NotFound, "no directory %s to save into", dir)
	}
	return nil
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (a *cli) snapshotRestoreCommand() *cobra.Command {
	var at string
	var force bool
	cmd := &cobra.Command{
		Use: "restore FILE|DIR (--data DIR | --store URL)", Short: "Bring a snapshot, or any moment of a backup directory, back into a store",
		Long: "Restores into the store that `vortex up` with the same flags would open; the server must not run. From a directory that\n" +
			"a server kept its backups in, --at names the moment to go back to: " + momentHelp + ".\n" +
			"A store that holds anything is refused unless --force replaces all of it. A restore that breaks leaves a mark: no server\n" +
			"starts on half a state, and the same command can be run again. What has expired meanwhile is left out; revisions start anew\n" +
			"in an empty store, so that clients which resume from an old one are told to list again.",
		Example: "  vortex snapshot restore monday.snap --data /var/lib/vortex\n" +
			"  vortex snapshot restore /var/backups/vortex --at 13:00:05 --data /var/lib/vortex --force\n" +
			"  vortex snapshot restore monday.snap --store postgres://vortex@db/vortex",
		Args: between(1, 1, "a snapshot file or a backup directory"),
	}
	cmd.Flags().StringVar(&at, "at", "", "the moment to go back to (default: the newest)")
	cmd.Flags().BoolVar(&force, "force", false, "replace what the store holds")
	sources := storeFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !sources.given("data", "store", "config") {
			return errUsage("expected --data DIR or --store URL: which store to restore into\nusage: %s", cmd.UseLine())
		}
		state, err := a.openState(args[0], at)
		if err != nil {
			return err
		}
		return a.restore(cmd.Context(), sources, args[0], state, force)
	}
	return cmd
}

// lookAt reports whether a backup is a directory.
func lookAt(path string) (isDir bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, vortex.Errorf(vortex.NotFound, "no snapshot or backup directory at %s", path)
	case err != nil:
		return false, vortex.Errorf(vortex.Invalid, "the backup cannot be read: %w", err)
	}
	return info.IsDir(), nil
}

// openState reads a snapshot file, or a backup directory at a moment.
func (a *cli) openState(path, at string) (*backup.State, error) {
	isDir, err := lookAt(path)
	if err != nil {
		return nil, err
	}
	if !isDir {
		if at != "" {
			return nil, errUsage("a snapshot file holds one moment; --at goes with a backup directory")
		}
		return backup.OpenFile(path)
	}
	var when backup.Moment
	if at != "" {
		m, err := parseMoment(at, time.Now())
		if err != nil {
			return nil, err
		}
		when = backup.Moment{Time: m.time, Revision: int64(m.revision)} //nolint:gosec // it was read with 63 bits
		if m.revision != 0 {
			when.Time = time.Time{}
		}
	}
	return backup.OpenDir(path, when)
}

// restored is what restore tells.
type restored struct {
	backup.Report

	Into     string    `json:"into"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
	Snapshot string    `json:"snapshot"`
	// Transactions are how many of the log were applied to the snapshot.
	Transactions int `json:"transactions"`
	// Newest is the last moment that a backup directory holds.
	Newest         time.Time `json:"newest,omitzero"`
	NewestRevision int64     `json:"newest_revision,omitempty"`
	// Warnings are what was passed over, and what a type refuses today.
	Warnings []string `json:"warnings"`
}

func (a *cli) restore(ctx context.Context, sources *daemonSources, from string, state *backup.State, force bool) error {
	cfg, err := sources.load(a)
	if err != nil {
		return err
	}
	if a.env.Engine == nil {
		return vortex.Errorf(vortex.Precondition, "this build of vortex only has the commands that talk to a server; restore with a build for Linux")
	}
	schema, err := builtinSchema()
	if err != nil {
		return err
	}
	eng, err := a.env.Engine(ctx, cfg)
	if err != nil {
		return err
	}
	report, err := backup.Restore(ctx, eng, state, backup.Options{Replace: force, Schema: schema})
	if closed := eng.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	into := cfg.Data
	if cfg.Store != "" {
		into = withoutPassword(cfg.Store)
	}
	out := restored{
		Report: report, Into: into, Revision: state.Revision, Time: state.Time.UTC(), Snapshot: state.Snapshot, Transactions: state.Transactions,
	}
	return a.tellRestored(out, from, state)
}

func (a *cli) tellRestored(out restored, from string, state *backup.State) error {
	out.Warnings = warnings(out.Report, state.Passed)
	for _, text := range out.Warnings {
		a.note("%s %s", a.style.warn("warning:"), text)
	}
	text := fmt.Sprintf("%s holds the state of %s, revision %d there: %s", out.Into, exactly(out.Time), out.Revision, count(out.Records, "record"))
	if out.Expired > 0 {
		text += fmt.Sprintf("; %d expired since and left out", out.Expired)
	}
	text += "\nfrom " + out.Snapshot
	if out.Transactions > 0 {
		text += fmt.Sprintf(" and %s after it", count(out.Transactions, "transaction"))
	}
	if c, err := backup.List(from); err == nil {
		out.Newest, out.NewestRevision = c.Newest()
		text += fmt.Sprintf("\nthe newest moment in %s is %s, revision %d", from, exactly(out.Newest), out.NewestRevision)
	}
	return a.result(out, out.Into, "%s", text)
}

// warnings are what a restore left aside or doubts.
func warnings(r backup.Report, passed []error) []string {
	texts := []string{} // none is [], not null
	for _, err := range passed {
		texts = append(texts, fmt.Sprintf("passed over: %v", err))
	}
	for _, reason := range r.Reasons {
		texts = append(texts, fmt.Sprintf("restored, but its type refuses it today: %v", reason))
	}
	if hidden := r.Misfits - len(r.Reasons); hidden > 0 {
		texts = append(texts, fmt.Sprintf("and %s more", count(hidden, "record")))
	}
	return texts
}

// exactly is a moment to the millisecond, as --at takes it.
func exactly(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }

// prove restores a state into a store of its own that is thrown away, and compares every record.
func (a *cli) prove(ctx context.Context, state *backup.State) (report backup.Report, err error) {
	if a.env.Engine == nil {
		return report, vortex.Errorf(vortex.Precondition, "this build of vortex has no store to restore into; use a build for Linux")
	}
	dir, err := os.MkdirTemp("", "vortex-prove-")
	if err != nil {
		return report, fmt.Errorf("make a directory to restore into: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	schema, err := builtinSchema()
	if err != nil {
		return report, err
	}
	eng, err := a.env.Engine(ctx, proofConfig(filepath.Join(dir, "data")))
	if err != nil {
		return report, err
	}
	report, err = backup.Prove(ctx, eng, state, schema)
	if closed := eng.Close(); err == nil {
		err = closed
	}
	return report, err
}
