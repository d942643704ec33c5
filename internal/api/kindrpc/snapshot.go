package kindrpc

import (
	"slices"

	"google.golang.org/grpc"

	"vortex/internal/kind/backup"
	kindpb "vortex/proto/kind"
)

// Snapshot implements the wire contract.
func (s *Service) Snapshot(_ *kindpb.SnapshotRequest, stream grpc.ServerStreamingServer[kindpb.SnapshotPart]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err == nil {
		err = acc.admin("take a snapshot")
	}
	if err == nil {
		err = s.fresh(ctx, kindpb.Consistency_LINEARIZABLE)
	}
	if err != nil {
		return s.fail(err)
	}
	_, err = backup.Write(parts{stream}, s.Store.Snapshot(), backup.Header{Version: s.Version})
	if err != nil && ctx.Err() == nil {
		return s.fail(err)
	}
	return nil // or the client has gone
}

// parts sends a file in messages of a bounded size.
type parts struct {
	stream grpc.ServerStreamingServer[kindpb.SnapshotPart]
}

const partBytes = 256 << 10

// Write implements io.Writer.
func (p parts) Write(data []byte) (int, error) {
	for part := range slices.Chunk(data, partBytes) {
		if err := p.stream.Send(&kindpb.SnapshotPart{Data: part}); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}
