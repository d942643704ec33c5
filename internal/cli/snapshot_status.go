package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/internal/kind/backup"
)

func (a *cli) snapshotStatusCommand() *cobra.Command {
	var prove bool
	cmd := &cobra.Command{
		Use: "status FILE|DIR", Short: "Check a snapshot, or a whole backup directory, and tell what is in it",
		Long: "Reads everything and holds it to its checksums. Of a file it tells the revision, the time and the records; of a directory\n" +
			"which moments one can go back to, and whether the log is complete. --prove restores it into a store of its own, opens that,\n" +
			"and compares every record. Exits with 1, and says what is wrong and where, when anything is damaged.",
		Example: "  vortex snapshot status monday.snap\n  vortex snapshot status monday.snap --prove\n  vortex snapshot status /var/backups/vortex -o json",
		Args:    between(1, 1, "a snapshot file or a backup directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			isDir, err := lookAt(args[0])
			switch {
			case err != nil:
				return err
			case isDir:
				return a.directoryStatus(cmd.Context(), args[0], prove)
			default:
				return a.fileStatus(cmd.Context(), args[0], prove)
			}
		},
	}
	cmd.Flags().BoolVar(&prove, "prove", false, "restore it into a store that is thrown away, and compare every record")
	return cmd
}

// fileState is what status tells of a file.
type fileState struct {
	backup.Summary

	Path     string          `json:"path"`
	Good     bool            `json:"good"`
	Prefixes backup.Prefixes `json:"prefixes"`
	Proved   *backup.Report  `json:"proved,omitempty"`
	Problems []string        `json:"problems"`
}

func (a *cli) fileStatus(ctx context.Context, path string, prove bool) error {
	st := fileState{Path: path, Prefixes: backup.Prefixes{}, Problems: []string{}}
	var err error
	st.Summary, err = backup.Verify(path, func(key string, _ []byte) { st.Prefixes.Add(key) })
	if err == nil && prove {
		var report backup.Report
		if report, err = a.proveFile(ctx, path); err == nil {
			st.Proved = &report
		}
	}
	if st.Good = err == nil; !st.Good {
		st.Problems = append(st.Problems, err.Error())
	}
	switch {
	case a.output == "json" || a.output == "yaml":
		return errors.Join(a.object(st), err)
	case err != nil:
		return err
	case a.output == "name":
		a.say("%s", path)
	default:
		a.showFile(st)
	}
	return nil
}

func (a *cli) showFile(st fileState) {
	rows := [][]string{
		{"snapshot", st.Path},
		{"state", a.style.good("good")},
		{"revision", strconv.FormatInt(st.Revision, 10)},
		{"taken", exactly(st.Taken) + " (" + since(&st.Taken) + " ago)"},
		{"records", strconv.Itoa(st.Records)},
		{"size", size(uint64(st.Bytes))}, //nolint:gosec // no file has a negative size
		{"sha256", st.SHA256},
	}
	if st.Proved != nil {
		rows = append(rows, []string{"proved", provedText(*st.Proved)})
	}
	a.facts(rows)
	if len(st.Prefixes) == 0 {
		return
	}
	rows = [][]string{{a.style.dim("PREFIX"), a.style.dim("RECORDS")}}
	for _, prefix := range slices.Sorted(maps.Keys(st.Prefixes)) {
		rows = append(rows, []string{prefix, strconv.Itoa(st.Prefixes[prefix])})
	}
	a.say("\n%s", strings.Join(align(rows), "\n"))
}

func provedText(r backup.Report) string {
	text := fmt.Sprintf("restored into a store of its own and compared: %s, none differs", count(r.Records, "record"))
	if r.Expired > 0 {
		text += fmt.Sprintf("; %d expired since and left out", r.Expired)
	}
	return text
}

func (a *cli) proveFile(ctx context.Context, path string) (backup.Report, error) {
	state, err := backup.OpenFile(path)
	if err != nil {
		return backup.Report{}, err
	}
	return a.prove(ctx, state)
}

// directoryState is what status tells of a directory.
type directoryState struct {
	*backup.Inspection

	Good   bool           `json:"good"`
	Proved *backup.Report `json:"proved,omitempty"`
}

func (a *cli) directoryStatus(ctx context.Context, dir string, prove bool) error {
	in, err := backup.Examine(dir)
	if err != nil {
		return err
	}
	st := directoryState{Inspection: in, Good: in.Good()}
	if prove && st.Good {
		state, err := backup.OpenDir(dir, backup.Moment{})
		if err != nil {
			return err
		}
		report, err := a.prove(ctx, state)
		if err != nil {
			return err
		}
		st.Proved = &report
	}
	if empty := len(in.Snapshots) == 0 && st.Good; empty {
		return vortex.Errorf(vortex.NotFound, "no snapshot in %s", dir)
	}
	if err := a.showDirectory(st); err != nil {
		return err
	}
	if !st.Good {
		return errors.New(strings.Join(in.Problems, "\n"))
	}
	return nil
}

func (a *cli) showDirectory(st directoryState) error {
	err := show(a, list[backup.Examined]{
		items: st.Snapshots, object: st, empty: "no snapshots", name: func(e backup.Examined) string { return e.Path },
		columns: []column[backup.Examined]{
			{"TAKEN", false, func(e backup.Examined) string { return exactly(e.Taken) }},
			{"REVISION", false, func(e backup.Examined) string { return strconv.FormatInt(e.Revision, 10) }},
			{"RECORDS", false, func(e backup.Examined) string {
				if e.Error != "" {
					return "-"
				}
				return strconv.Itoa(e.Records)
			}},
			{"SIZE", false, func(e backup.Examined) string { return size(uint64(e.Bytes)) }}, //nolint:gosec // no file has a negative size
			{"STATE", false, func(e backup.Examined) string {
				if e.Error != "" {
					return a.style.bad("damaged")
				}
				return a.style.good("good")
			}},
			{"LOG", true, func(e backup.Examined) string { return orDash(e.Log) }},
			{"FILE", false, func(e backup.Examined) string { return filepath.Base(e.Path) }},
		},
	})
	if err != nil || !a.tableOnly() {
		return err
	}
	for _, w := range st.Windows {
		if w.Transactions == 0 {
			a.say("can go back to %s, revision %d", exactly(w.From), w.FromRevision)
		} else {
			a.say("can go back to any moment from %s to %s, revisions %d to %d (%s)",
				exactly(w.From), exactly(w.To), w.FromRevision, w.ToRevision, count(w.Transactions, "transaction"))
		}
	}
	if st.Good && len(st.Snapshots) > 0 {
		a.say("%s", a.style.good("everything is complete"))
	}
	if st.Proved != nil {
		a.say("proved: %s", provedText(*st.Proved))
	}
	return nil
}
