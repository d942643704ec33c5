// Package uring is the part of Linux's io_uring that a proxy needs: accept, connect, receive, send and close, asked for without
// a system call each. A loop asks for as much as it likes and then calls Ring.Wait, which is the one system call of a round: it submits
// everything and comes back with what has completed.
//
// A Ring belongs to one thread. What is received lies in buffers that the kernel takes as it needs them, so that connections
// on which nothing comes hold no memory.
//
// New fails where the kernel is older than 6.1 or does not let this process use io_uring (containers often may not); callers
// go on without.
package uring
