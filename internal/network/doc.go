// Package network gives every instance of a node its own network namespace, address and files.
//
// A Network owns one bridge, one subnet, one nftables table and one directory. The directory is the
// table of addresses: an address is taken exactly while slots/<address> exists, so a process that
// is killed at any point leaves nothing that the next Setup cannot read and either adopt or remove.
//
// It guarantees that two instances never share an address, that an address is given again only after
// all others were (next fit), that instances keep their connectivity while no Vortex process runs, and that
// Attach takes well under a millisecond while the pool of prepared namespaces has one left.
//
// It never changes a firewall rule, route or interface that it did not make. The one place outside its own table where it adds
// rules is DOCKER-USER, the chain Docker reserves for that: Docker's FORWARD policy is drop, which no
// other table can lift. Config.NoDockerUser forbids it. Any other firewall that drops forwarded packets is
// only reported in the log, with what to allow.
//
//	nw, err := network.New(network.Config{DataDir: "/var/lib/vortex/network", Log: log})
//	err = nw.Setup(ctx)
//	go nw.Run(ctx)
//	at, err := nw.Attach(ctx, "web-1", network.AttachSpec{Hostname: "web-1"})
package network
