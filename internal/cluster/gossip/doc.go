// Package gossip is how the machines of a cluster find each other: each knows of every other where it is, what it is and how
// much of it is free, learnt from whomever it could reach.
//
// It finds, it does not decide. Nobody is alive or dead because gossip says so, and an address that comes from it is only
// tried: who answers there still has to show the certificate of a server. So a machine whose known servers have all moved finds
// the new ones as long as it reaches any other machine, and a liar among the members costs others a futile try.
//
// What is sent is encrypted with a key that all members share (AES-256-GCM); machines with another key or of another cluster are not
// heard. It costs a machine about one small datagram a second, however many members there are, and one exchange of everything in half a minute.
//
// A Mesh is one process's part in it, with notes that mean nothing to the mesh; a Finder is a Mesh whose notes are Members.
//
//	finder, err := gossip.Open(ctx, gossip.Config{Name: "n1", Listen: ":7946", Address: ip, Keys: keys, Label: cluster, Seeds: seeds, Self: self})
//	go finder.Run(ctx)
//	finder.Servers() // host:port of the gRPC services of the servers it knows
package gossip
