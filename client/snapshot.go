package client

import (
	"context"
	"errors"
	"io"

	kindpb "vortex/proto/kind"
)

// Snapshot writes a snapshot file of the whole store to w: the state at one revision. The file holds its own checksums;
// `vortex snapshot status` checks them.
func (k *Kind) Snapshot(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := k.client.Snapshot(ctx, &kindpb.SnapshotRequest{})
	if err != nil {
		return k.fail(ctx, err)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return k.fail(ctx, err)
		}
		if _, err := w.Write(part.GetData()); err != nil {
			return err
		}
	}
}
