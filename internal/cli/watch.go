package cli

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"vortex/client"
)

// refresh is how often a watched table is looked at when nothing says that it changed: ages and rates change by themselves.
const refresh = time.Second

// watch shows a listing once, or with --watch again at every change: on a terminal in its place, else
// as the lines that changed.
func watch[T any](ctx context.Context, a *cli, c *client.Client, fetch func(context.Context) (list[T], error)) error {
	return watchOn(ctx, a, func(ctx context.Context) <-chan error { return followChanges(ctx, c) }, fetch)
}

// watchOn is watch for what tells of its changes in its own way.
func watchOn[T any](ctx context.Context, a *cli, follow func(context.Context) <-chan error, fetch func(context.Context) (list[T], error)) error {
	l, err := fetch(ctx)
	if err != nil {
		return err
	}
	a.clear()
	if err := show(a, l); err != nil || !a.watching {
		return err
	}
	before := l.lines(a)
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	changes := follow(ctx)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err, open := <-changes:
			if !open || err != nil {
				return err
			}
		case <-ticker.C:
			if !a.tty {
				continue
			}
		}
		if l, err = fetch(ctx); err != nil {
			return err
		}
		now := l.lines(a)
		if slices.Equal(now, before) {
			continue
		}
		if err := a.showAgain(now, before, func() error { return show(a, l) }); err != nil {
			return err
		}
		before = now
	}
}

// followChanges receives nil whenever something changed, and the error that ended the stream.
func followChanges(ctx context.Context, c *client.Client) <-chan error {
	changes := make(chan error, 1)
	go func() {
		defer close(changes)
		for _, err := range c.FollowApps(ctx) {
			select {
			case changes <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return changes
}

// showAgain prints a listing that changed.
func (a *cli) showAgain(now, before []string, whole func() error) error {
	if a.tty || !a.tableOnly() {
		a.clear()
		return whole()
	}
	for _, line := range now {
		if !slices.Contains(before, line) {
			if _, err := io.WriteString(a.env.Stdout, strings.TrimRight(line, " ")+"\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

// clear empties the terminal before a watched listing is shown in its place.
func (a *cli) clear() {
	if a.watching && a.tty && a.tableOnly() {
		_, _ = io.WriteString(a.env.Stdout, "\x1b[H\x1b[2J")
	}
}
