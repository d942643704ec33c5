package node

import (
	"context"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"vortex"
	"vortex/internal/api/kindrpc"
	"vortex/internal/authz"
	clusterimages "vortex/internal/cluster/images"
)

// Export implements clusterimages.Exporter with the images of this machine.
func (n *Node) Export(ctx context.Context, ref string, w io.Writer) error {
	store := n.stock.Load()
	if store == nil {
		return vortex.Errorf(vortex.NotFound, "this server keeps no images")
	}
	return store.Export(ctx, ref, w)
}

// mayHaveImages lets those have images who may read the releases that name them.
func mayHaveImages(ctx context.Context) error {
	caller := kindrpc.Caller(ctx)
	if caller == nil {
		return vortex.Errorf(vortex.Unauthenticated, "images need the certificate of a node, or a token")
	}
	return caller.Check(authz.Read, vortex.Releases.Prefix)
}

// puller makes images ready for this machine's agent.
func (n *Node) puller() puller {
	p := puller{store: n.images}
	if n.holder == nil {
		return p
	}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(n.holder.Client("h2")))}
	p.fetch = func(ctx context.Context, ref string) error {
		if strings.Contains(ref, "@") {
			return vortex.Errorf(vortex.NotFound, "an image with a digest comes from its registry")
		}
		return clusterimages.Fetch(ctx, n.servers(), dial, ref, func(ctx context.Context, archive io.Reader) error {
			_, err := n.images.Import(ctx, archive, ref)
			return err
		})
	}
	return p
}
