// Package join lets machines into a cluster and renews their certificates: the ClusterService that servers offer on Kind's port, and
// the calls to it.
//
// It guarantees that a token is used as often as it says and not once more, whatever runs at the same time; that a machine
// shows its token to a server of the token's cluster only; and that a name belongs to one key at a time. A stranger learns nothing but
// that its token is not valid. Renewing writes nothing, so certificates stay fresh while the store has lost its quorum.
//
//	svc := &join.Service{Store: store, Holder: holder, Lifetime: 24 * time.Hour}
//	clusterpb.RegisterClusterServiceServer(srv, svc) // and kindrpc.Service.Public: join.Methods()
//
//	members, err := join.Join(ctx, join.Request{Servers: []string{"10.0.0.1"}, Token: token, Name: "n1", Role: vortex.ClusterRoleAgent, Dir: dir})
package join
