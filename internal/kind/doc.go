// Package kind is the state store: typed JSON records over a replicated engine, read from memory,
// written in transactions, watched by everybody.
//
// A Store guarantees: a value that its type refuses never reaches the engine; a transaction happens whole or
// not at all, and once Commit returned it is durable and this store's own readers see it; readers and watchers see
// each transaction whole, in the order of revisions; an expired record is invisible from that millisecond on;
// a slow watcher never delays a writer.
//
// It never decides anything about the cluster, and it imports no transport: the gRPC service and the REST API
// stand in front of it.
//
//	store, err := kind.Open(ctx, kind.Config{Engine: eng, Schema: schema})
//	go store.Run(ctx)
//	_, err = kind.Put(ctx, store, vortex.Nodes, node.ID, node)
//	for _, c := range kind.Find(store, vortex.Containers, "client_id", "web") { … }
package kind
