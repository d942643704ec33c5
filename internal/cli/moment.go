package cli

import (
	"strconv"
	"time"
)

// moment is a point in a store's history: a revision, or a time where revision is 0.
type moment struct {
	revision uint64
	time     time.Time
}

// momentFormats are the times people may write, in their own time zone unless the text names one.
var momentFormats = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

// momentHelp tells how a moment is written.
const momentHelp = `a revision such as 1234, a time such as "2026-11-21 13:00:05", 2026-11-21T13:00:05Z or 13:00:05 (today), or how long ago, such as 10m`

// parseMoment reads a moment as people write it. Now is what today and ago refer to.
func parseMoment(text string, now time.Time) (moment, error) {
	if revision, err := strconv.ParseUint(text, 10, 63); err == nil && revision > 0 {
		return moment{revision: revision}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 && text != "0" {
		return moment{time: now.Add(-ago)}, nil
	}
	for _, format := range momentFormats {
		if at, err := time.ParseInLocation(format, text, now.Location()); err == nil {
			return moment{time: wholeSecond(at)}, nil
		}
	}
	for _, format := range []string{"15:04:05", "15:04"} {
		if at, err := time.Parse(format, text); err == nil {
			year, month, day := now.Date()
			today := time.Date(year, month, day, at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), now.Location())
			return moment{time: wholeSecond(today)}, nil
		}
	}
	return moment{}, errUsage("expected %s, got %q", momentHelp, text)
}

// wholeSecond makes a second that is named without a fraction mean all of it: what happened in it is included.
func wholeSecond(t time.Time) time.Time {
	if t.Nanosecond() == 0 {
		return t.Add(time.Second - time.Millisecond)
	}
	return t
}
