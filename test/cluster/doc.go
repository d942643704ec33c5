// Package cluster makes several hosts out of one machine, joins them by a network that can be cut, and breaks them: for proofs
// of what a cluster does when machines, links, clocks and disks fail.
//
// A host is a set of namespaces (network, process ids, mounts, host name, IPC, cgroups) with an address, a disk and a /run of its
// own. What runs in it are real processes which take it for a machine: they may make bridges, cgroups, containers. Hosts
// are joined by a bridge in a namespace of its own, so that nothing of it is seen in the machine's network and no address
// can collide with one of the machine's. The test stands outside and reaches every host from a seat on the same bridge.
//
// It guarantees that nothing stays behind: namespaces, links, processes and mounts end with the test, also when the test itself is
// killed; the cgroups and disks of a killed one are removed by the next. It never changes an interface, a route or a firewall
// rule of the machine.
//
// What it cannot do: a frozen host's kernel still acknowledges what its peers send, and a host that loses its power loses nothing
// that it wrote without a sync. The clock is moved for the processes that are started, not for what they start in turn.
//
//	func TestMain(m *testing.M) { cluster.Init(); os.Exit(m.Run()) }
//
//	net := cluster.New(t, 3)
//	one, two := net.Host(1), net.Host(2)
//	one.Run("/usr/bin/server", "--listen", one.Addr+":80")
//	net.CutOneWay(one, two)
//	two.Freeze(2 * time.Second)
//	net.Heal()
package cluster
