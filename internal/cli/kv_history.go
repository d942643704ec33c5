package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex/client"
)

// at is a moment as the client names it.
func (m moment) at() client.At { return client.At{Revision: m.revision, Time: m.time} }

// parseAt reads a moment, "" being now.
func parseAt(text string) (client.At, error) {
	if text == "" {
		return client.At{}, nil
	}
	m, err := parseMoment(text, time.Now())
	return m.at(), err
}

// parseSpan reads FROM..TO; FROM.. goes on until now, and a single moment is both ends.
func parseSpan(text string) (from, to client.At, err error) {
	first, last, ok := strings.Cut(text, "..")
	if m, err := parseMoment(text, time.Now()); !ok && err == nil && m.revision == 0 {
		return from, to, errUsage("expected a revision or FROM..TO, got the time %q; %s.. is everything since", text, text)
	}
	if !ok {
		last = first
	}
	if first == "" {
		return from, to, errUsage("expected FROM..TO or FROM.., got %q; each end is %s", text, momentHelp)
	}
	if from, err = parseAt(first); err != nil {
		return from, to, err
	}
	to, err = parseAt(last)
	return from, to, err
}

// atFlag adds --at.
func atFlag(cmd *cobra.Command, at *string) {
	cmd.Flags().StringVar(at, "at", "", "read the past: "+momentHelp)
}

// kvTransaction is a transaction as it is printed for programs.
type kvTransaction struct {
	Revision uint64         `json:"revision"`
	Time     time.Time      `json:"time,omitzero"`
	Changes  []recordChange `json:"changes"`
}

func (a *cli) kvHistoryCommand() *cobra.Command {
	var since, until string
	var limit int
	var patch bool
	cmd := &cobra.Command{
		Use: "history [PREFIX]", Aliases: []string{"log"}, Short: "List the transactions that changed keys below PREFIX, the newest first",
		Example: "  vortex kv history vortex:app --since 10m\n  vortex kv history vortex:app:web -p",
		Args:    between(0, 1, "a prefix or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			from, err := parseAt(since)
			if err != nil {
				return err
			}
			to, err := parseAt(until)
			if err != nil {
				return err
			}
			var txns []client.Transaction
			for txn, err := range k.History(ctx, strings.Join(args, ""), from, to) {
				if err != nil {
					return err
				}
				txns = append(txns, txn)
				if limit > 0 && len(txns) > limit {
					txns = txns[1:]
				}
			}
			slices.Reverse(txns)
			return a.showHistory(txns, patch)
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "only from here on: "+momentHelp)
	cmd.Flags().StringVar(&until, "until", "", "only up to here")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "how many at most; 0 is all")
	cmd.Flags().BoolVarP(&patch, "patch", "p", false, "also show the fields that changed")
	return cmd
}

func (a *cli) showHistory(txns []client.Transaction, patch bool) error {
	if !a.tableOnly() {
		out := make([]kvTransaction, len(txns))
		for i, txn := range txns {
			out[i] = kvTransaction{Revision: txn.Revision, Changes: []recordChange{}}
			if !txn.Time.IsZero() {
				out[i].Time = txn.Time.UTC()
			}
			for _, c := range txn.Changes {
				out[i].Changes = append(out[i].Changes, recordChangeOf(c))
			}
		}
		name := func(t kvTransaction) string { return strconv.FormatUint(t.Revision, 10) }
		return show(a, list[kvTransaction]{items: out, object: out, name: name})
	}
	if len(txns) == 0 {
		a.note("no transactions")
	}
	for _, txn := range txns {
		when := "at a time that was not kept"
		if !txn.Time.IsZero() {
			when = txn.Time.Local().Format(time.DateTime)
			if a.output == "wide" {
				when = exactly(txn.Time)
			}
		}
		a.say("%s  %s", a.style.warn("revision "+strconv.FormatUint(txn.Revision, 10)), a.style.dim(when))
		for _, c := range txn.Changes {
			if patch {
				a.sayChange(c)
			} else {
				a.say("%s %s", a.changeMark(c), c.Key)
			}
		}
	}
	return nil
}

func (a *cli) kvDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff FROM..TO [PREFIX]", Short: "Show what is different between two states, field by field",
		Long:    "Shows what is different between two states, field by field. FROM.. compares with now. Each end is " + momentHelp + ".",
		Example: "  vortex kv diff 120..140\n  vortex kv diff 10m.. vortex:app",
		Args:    between(1, 2, "FROM..TO and a prefix or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			if !strings.Contains(args[0], "..") {
				return errUsage("expected FROM..TO or FROM.., got %q", args[0])
			}
			from, to, err := parseSpan(args[0])
			if err != nil {
				return err
			}
			changes := []recordChange{}
			for c, err := range k.Diff(ctx, strings.Join(args[1:], ""), from, to) {
				if err != nil {
					return err
				}
				if a.tableOnly() {
					a.sayChange(c)
				}
				changes = append(changes, recordChange{Key: c.Key})
				if !a.tableOnly() {
					changes[len(changes)-1] = recordChangeOf(c)
				}
			}
			if a.tableOnly() {
				if len(changes) == 0 {
					a.note("no difference")
				}
				return nil
			}
			return show(a, list[recordChange]{items: changes, object: changes, name: func(c recordChange) string { return c.Key }})
		}),
	}
}

func (a *cli) kvCompactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact [REVISION]", Short: "Forget the history before a revision, or all of it",
		Long: "Forgets what is only visible before a revision; without one, before now. What is current stays.",
		Args: between(0, 1, "a revision or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			st, err := k.Status(ctx)
			if err != nil {
				return err
			}
			rev := st.GetRevision()
			if len(args) == 1 {
				if rev, err = strconv.ParseUint(args[0], 10, 63); err != nil || rev == 0 {
					return errUsage("expected a revision such as 1234, got %q", args[0])
				}
			}
			oldest, err := k.Compact(ctx, rev)
			if err != nil {
				return err
			}
			return a.result(map[string]any{"oldest_revision": oldest}, strconv.FormatUint(oldest, 10), "the oldest revision kept is %d", oldest)
		}),
	}
}
