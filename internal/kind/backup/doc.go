// Package backup keeps a store's records outside of it: snapshots, a log of every transaction between them, and the way back.
//
// A snapshot is one file that holds the records at one revision; a log is a chain of segments that hold the transactions
// after it. Both are written in frames with checksums and end in a digest of the whole file, so that a file which is cut, or in
// which one bit changed, is never read as good: the error says where. A Keeper takes snapshots of a running store at
// an interval, ships its transactions to the log, reads back what it wrote, and lets go of what is old. A State is
// what a snapshot, or a directory at a moment, says that the store was; Restore makes an engine hold exactly that.
//
// It never writes to the store it keeps, and a directory that fails never delays one. Revisions are not kept: a restored
// engine counts its own.
//
//	summary, err := backup.Write(file, store.Snapshot(), backup.Header{})
//	state, err := backup.OpenDir(dir, backup.Moment{Time: lunch})
//	report, err := backup.Restore(ctx, engine, state, backup.Options{})
package backup
