package node

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/image"
	"vortex/internal/kind"
)

const (
	collectEvery = 10 * time.Minute
	// fullDisk is the share of the data directory's disk in use above which images that no app uses are given up.
	fullDisk = 0.85
)

// collectImages frees what no image needs any more and, when the disk is nearly full, the images that no app uses.
func (n *Node) collectImages(ctx context.Context) error {
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var keep func(image.Image) bool // nil keeps every name
		if diskUse(n.cfg.Data) > fullDisk {
			used := n.usedImages()
			keep = func(img image.Image) bool { return used[img.Name] }
		}
		freed, err := n.images.GC(keep)
		if err != nil {
			n.log.WarnContext(ctx, "Images not collected", "err", err)
		} else if freed.Blobs+freed.Layers > 0 {
			n.log.InfoContext(ctx, "Images collected", "names", freed.Names, "layers", freed.Layers, "bytes", freed.Bytes)
		}
	}
}

// usedImages are the images of every app and of every release that may be gone back to.
func (n *Node) usedImages() map[string]bool {
	used := map[string]bool{}
	add := func(spec *vortex.App, built string) {
		for _, name := range []string{spec.Spec.Image, built} {
			if img, err := n.images.Inspect(name); err == nil {
				used[img.Name] = true
			}
		}
	}
	n.store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Apps) {
			add(&e.Value.Spec, e.Value.Image)
		}
		for _, e := range kind.List(v, vortex.Releases) {
			add(&e.Value.Spec, e.Value.Image)
		}
	})
	return used
}

// diskUse is the share of a directory's disk that is in use, from 0 to 1.
func diskUse(dir string) float64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Blocks == 0 {
		return 0
	}
	return 1 - float64(fs.Bavail)/float64(fs.Blocks)
}
