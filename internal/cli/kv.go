package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	kindpb "vortex/proto/kind"
)

func (a *cli) kvCommand() *cobra.Command {
	cmd := group("kv", "Read and write the state store",
		a.kvGetCommand(), a.kvPutCommand(), a.kvDeleteCommand(), a.kvCasCommand(), a.kvScanCommand(), a.kvQueryCommand(),
		a.kvWatchCommand(), a.kvSchemaCommand(), a.kvStatusCommand(), a.kvHistoryCommand(), a.kvDiffCommand(), a.kvCompactCommand(), a.kvBenchCommand())
	a.kindFlag(cmd)
	return cmd
}

// kindFlag lets a command and those below it name the store.
func (a *cli) kindFlag(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&a.kind, "kind", "", "host:port of the store (default: the server's; VORTEX_KIND)")
}

// withKind runs a command that needs the store.
func (a *cli) withKind(run func(ctx context.Context, k *client.Kind, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		k, err := a.openKind()
		if err != nil {
			return err
		}
		defer k.Close()
		return run(cmd.Context(), k, args)
	}
}

// kvRecord is a record as it is printed: a JSON value as it is, any other as text or, when it is none, in base64.
type kvRecord struct {
	Key            string    `json:"key"`
	Value          any       `json:"value"`
	Encoding       string    `json:"encoding,omitempty"` // of a value that is no JSON: text or base64
	ExpiresAt      time.Time `json:"expires_at,omitzero"`
	CreateRevision uint64    `json:"create_revision"`
	ModRevision    uint64    `json:"mod_revision"`
}

// printable is a value as it is printed, and its encoding when it is no JSON.
func printable(value []byte) (printed any, encoding string) {
	switch {
	case json.Valid(value):
		return json.RawMessage(value), ""
	case utf8.Valid(value):
		return string(value), "text"
	default:
		return value, "base64"
	}
}

func kvRecordOf(r client.Record) kvRecord {
	out := kvRecord{Key: r.Key, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision}
	out.Value, out.Encoding = printable(r.Value)
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt = r.ExpiresAt.UTC()
	}
	return out
}

func (a *cli) kvGetCommand() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "get KEY", Short: "Print the value at a key", Args: between(1, 1, "a key"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			when, err := parseAt(at)
			if err != nil {
				return err
			}
			rec, err := k.GetAt(ctx, args[0], when)
			if err != nil {
				return err
			}
			switch a.output {
			case "json", "yaml":
				return a.object(kvRecordOf(rec))
			case "wide", "name":
				return a.showRecords([]client.Record{rec})
			}
			_, err = a.env.Stdout.Write(append(rec.Value, '\n'))
			return err
		}),
	}
	atFlag(cmd, &at)
	return cmd
}

// valueOf is an argument, or what stdin holds when it is -, or a file when it starts with @.
func (a *cli) valueOf(arg string) ([]byte, error) {
	switch {
	case arg == "-":
		data, err := io.ReadAll(a.env.Stdin)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "stdin cannot be read: %w", err)
		}
		return data, nil
	case strings.HasPrefix(arg, "@"):
		data, err := os.ReadFile(arg[1:])
		if err != nil {
			return nil, vortex.Errorf(vortex.NotFound, "the value cannot be read: %w", err)
		}
		return data, nil
	default:
		return []byte(arg), nil
	}
}

func (a *cli) kvPutCommand() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "put KEY VALUE|@FILE|-", Short: "Write a value", Args: between(2, 2, "a key and a value"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			value, err := a.valueOf(args[1])
			if err != nil {
				return err
			}
			rev, err := k.Put(ctx, args[0], value, ttl)
			if err != nil {
				return err
			}
			return a.result(map[string]any{"key": args[0], "revision": rev}, args[0], "%s written at revision %d", args[0], rev)
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "the value disappears after this long")
	return cmd
}

func (a *cli) kvDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "del KEY", Aliases: []string{"delete", "rm"}, Short: "Remove a key", Args: between(1, 1, "a key"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			existed, err := k.Delete(ctx, args[0])
			if err != nil {
				return err
			}
			if !existed {
				return vortex.Errorf(vortex.NotFound, "no record at %q", args[0])
			}
			return a.result(map[string]string{"removed": args[0]}, args[0], "%s removed", args[0])
		}),
	}
}

func (a *cli) kvCasCommand() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "cas KEY EXPECTED NEW", Short: "Write a value if the key holds exactly EXPECTED; \"\" is absent",
		Args: between(3, 3, "a key, the expected and the new value"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			expected, err := a.valueOf(args[1])
			if err != nil {
				return err
			}
			value, err := a.valueOf(args[2])
			if err != nil {
				return err
			}
			swapped, err := k.CompareAndSwap(ctx, args[0], expected, value, ttl)
			if err != nil {
				return err
			}
			if !swapped {
				return vortex.Errorf(vortex.Conflict, "%q does not hold what was expected\n`vortex kv get %s` prints what it holds", args[0], args[0])
			}
			return a.result(map[string]any{"key": args[0], "success": true}, args[0], "%s written", args[0])
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "the value disappears after this long")
	return cmd
}

func (a *cli) kvScanCommand() *cobra.Command {
	var filters []string
	var at string
	cmd := &cobra.Command{
		Use: "scan [PREFIX]", Aliases: []string{"ls"}, Short: "List the records whose key starts with PREFIX", Args: between(0, 1, "a prefix or nothing"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			var parsed []client.Filter
			for _, text := range filters {
				f, err := fieldValue(text)
				if err != nil {
					return err
				}
				parsed = append(parsed, f)
			}
			when, err := parseAt(at)
			if err != nil {
				return err
			}
			found, err := k.ScanAt(ctx, strings.Join(args, ""), when, parsed...)
			if err != nil {
				return err
			}
			return a.showRecords(found)
		}),
	}
	cmd.Flags().StringArrayVar(&filters, "where", nil, "field=value; may be repeated")
	atFlag(cmd, &at)
	return cmd
}

// fieldValue reads field=value.
func fieldValue(text string) (client.Filter, error) {
	field, value, ok := strings.Cut(text, "=")
	if !ok || field == "" {
		return client.Filter{}, errUsage("expected field=value, got %q", text)
	}
	return client.Filter{Field: field, Value: value}, nil
}

func (a *cli) kvQueryCommand() *cobra.Command {
	var limit uint32
	var at string
	cmd := &cobra.Command{
		Use: "query TYPE FIELD=VALUE", Short: "List the records of a type by an indexed field",
		Example: "  vortex kv query ContainerRecord status=Running",
		Args:    between(2, 2, "a type and field=value"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			f, err := fieldValue(args[1])
			if err != nil {
				return err
			}
			when, err := parseAt(at)
			if err != nil {
				return err
			}
			found, err := k.QueryAt(ctx, args[0], f, limit, when)
			if err != nil {
				return err
			}
			return a.showRecords(found)
		}),
	}
	cmd.Flags().Uint32Var(&limit, "limit", 0, "how many at most; 0 is all")
	atFlag(cmd, &at)
	return cmd
}

func (a *cli) showRecords(found []client.Record) error {
	records := make([]kvRecord, len(found))
	for i, rec := range found {
		records[i] = kvRecordOf(rec)
	}
	const width = 100
	return show(a, list[client.Record]{
		items: found, object: records, empty: "no records", name: func(r client.Record) string { return r.Key },
		columns: []column[client.Record]{
			{"KEY", false, func(r client.Record) string { return r.Key }},
			{"REVISION", true, func(r client.Record) string { return strconv.FormatUint(r.ModRevision, 10) }},
			{"EXPIRES", true, func(r client.Record) string {
				if r.ExpiresAt.IsZero() {
					return "-"
				}
				return "in " + age(time.Until(r.ExpiresAt))
			}},
			{"VALUE", false, func(r client.Record) string {
				if a.output == "wide" {
					return visible(r.Value)
				}
				return short(visible(r.Value), width)
			}},
		},
	})
}

// kvStatus is how a store is, as it is printed.
type kvStatus struct {
	Revision       uint64    `json:"revision"`
	Records        uint64    `json:"records"`
	MemoryBytes    uint64    `json:"memory_bytes"`
	Watchers       uint64    `json:"watchers"`
	OldestRevision uint64    `json:"oldest_revision"`
	OldestTime     time.Time `json:"oldest_time,omitzero"`
	Stale          bool      `json:"stale"`
	Trouble        string    `json:"trouble"`
	Version        string    `json:"version"`
}

func kvStatusOf(st *kindpb.StatusResponse) kvStatus {
	out := kvStatus{
		Revision: st.GetRevision(), Records: st.GetRecords(), MemoryBytes: st.GetMemoryBytes(), Watchers: st.GetWatchers(),
		OldestRevision: st.GetOldestRevision(), Stale: st.GetStale(), Trouble: st.GetTrouble(), Version: st.GetVersion(),
	}
	if ms := st.GetOldestTime(); ms != 0 {
		out.OldestTime = time.UnixMilli(int64(ms)).UTC() //nolint:gosec // moments of this era
	}
	return out
}

func (a *cli) kvStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell how the store is", Args: none,
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			resp, err := k.Status(ctx)
			if err != nil {
				return err
			}
			st := kvStatusOf(resp)
			if !a.tableOnly() {
				return a.answer(st, strconv.FormatUint(st.Revision, 10), "")
			}
			state := a.style.state("ok")
			switch {
			case st.Trouble != "":
				state = a.style.bad(st.Trouble)
			case st.Stale:
				state = a.style.warn("away: reads may be old, writes fail")
			}
			history := fmt.Sprintf("from revision %d", st.OldestRevision)
			if !st.OldestTime.IsZero() {
				history += ", " + age(time.Since(st.OldestTime)) + " ago"
			}
			a.facts([][]string{
				{"revision", strconv.FormatUint(st.Revision, 10)},
				{"records", fmt.Sprintf("%d, about %s in memory", st.Records, size(st.MemoryBytes))},
				{"history", history},
				{"watchers", strconv.FormatUint(st.Watchers, 10)},
				{"engine", state},
				{"version", orDash(st.Version)},
			})
			return nil
		}),
	}
}
