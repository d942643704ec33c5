// Package bootstrap makes one cluster of N servers that are started with the same list of hosts and the same secret, in any order.
//
// They find each other by gossip under a key derived from the secret. When N know each other, each of them promises, durably and once, to
// follow one of them: the one with the smallest name, or whom others promised to follow already. Who has the promises of all others
// founds the cluster and tells them the hash of its CA, so that they join it as with any token.
//
// It guarantees that N servers found at most one cluster, whatever is lost, late, restarted or cut off: a founder has N − 1 promises, a
// server promises once, and who promised does not found. While not all N are there nothing happens, and the log says whom it waits for. It
// knows nothing of stores and certificates: those are for who asks it.
//
//	f, err := bootstrap.Listen(bootstrap.Config{Name: "n1", Servers: 3, Hosts: hosts, Secret: secret, …})
//	founder, err := f.Settle(ctx) // nil: this server is the one that founds
//	f.Offer(ca.Pin())             // once others can join
package bootstrap
