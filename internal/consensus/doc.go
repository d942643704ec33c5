// Package consensus decides which servers keep the store: of all servers of a cluster it makes 1, 3 or 5 the members of the
// embedded engine's group, one change at a time.
//
// Choose is pure: servers and members in, the next step and its reason out. It guarantees that no step leaves fewer voters alive than a
// quorum, that at most one member is being added, and that a world which stands still ends in a group that does. Keeper is
// the loop that carries the steps out; it runs under the lead and owns vortex:member.
package consensus
