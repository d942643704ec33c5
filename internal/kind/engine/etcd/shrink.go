package etcd

import (
	"log/slog"

	"go.etcd.io/etcd/server/v3/embed"
)

const (
	shrinkFrom  = 256 << 20 // bytes of a database file that are worth the time
	shrinkShare = 2         // rewritten when less than one part in so many is in use
)

// shrink rewrites a member's database file when most of it is free. What compaction frees is used again, but the file
// itself only becomes smaller this way, and nothing can be read or written meanwhile: a start is the time for it.
func shrink(member *embed.Etcd, log *slog.Logger) {
	db := member.Server.Backend()
	size := db.Size()
	if size < shrinkFrom || db.SizeInUse() >= size/shrinkShare {
		return
	}
	if err := db.Defrag(); err != nil {
		if log != nil {
			log.Warn("Store file not shrunk", "err", err)
		}
		return
	}
	if log != nil {
		log.Info("Store file shrunk", "before", size, "after", db.Size())
	}
}
