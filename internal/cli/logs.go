package cli

import (
	"time"

	"github.com/spf13/cobra"

	"vortex/client"
)

func (a *cli) logsCommand() *cobra.Command {
	var opts client.LogOptions
	var stamps bool
	cmd := &cobra.Command{
		Use: "logs APP", Short: "Print what an app's instances write",
		Example: "  vortex logs web -f\n  vortex logs web -n 100 --since 10m",
		Args:    between(1, 1, "an app"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			p := logPrinter{cli: a, stamps: stamps, single: opts.Instance != "", colours: map[string]int{}}
			if opts.Follow {
				for entry, err := range c.FollowLogs(cmd.Context(), args[0], opts) {
					if err != nil {
						return err
					}
					if err := p.print(entry); err != nil {
						return err
					}
				}
				return nil
			}
			entries, err := c.Logs(cmd.Context(), args[0], opts)
			if err != nil {
				return err
			}
			if a.output == "json" || a.output == "yaml" {
				return a.object(entries)
			}
			for _, entry := range entries {
				if err := p.print(entry); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&opts.Follow, "follow", "f", false, "go on and print what comes")
	cmd.Flags().IntVarP(&opts.Tail, "tail", "n", 200, "at most the last N lines; 0 is all")
	cmd.Flags().DurationVar(&opts.Since, "since", 0, "not older than this, such as 10m")
	cmd.Flags().StringVarP(&opts.Instance, "instance", "i", "", "of this instance only")
	cmd.Flags().BoolVarP(&stamps, "timestamps", "t", false, "print when each line was written")
	return cmd
}

// logPrinter prints log lines, those of each instance in a colour of its own.
type logPrinter struct {
	*cli

	stamps, single bool
	colours        map[string]int
}

var instanceColours = []string{"6", "5", "4", "3", "2", "14", "13", "12", "11", "10"}

func (p *logPrinter) print(entry client.LogEntry) error {
	if p.output == "json" || p.output == "yaml" {
		return p.object(entry)
	}
	line := entry.Line
	if entry.Stream == "stderr" {
		line = p.style.bad(line)
	}
	if p.stamps {
		line = p.style.dim(entry.Time.Local().Format(time.RFC3339Nano)) + " " + line
	}
	if !p.single {
		n, ok := p.colours[entry.Instance]
		if !ok {
			n = len(p.colours) % len(instanceColours)
			p.colours[entry.Instance] = n
		}
		line = p.style.paint(instanceColours[n], entry.Instance) + " " + line
	}
	p.say("%s", line)
	return nil
}
