// Package docker runs instances as containers of a Docker Engine.
//
// The engine is the driver's only memory: every instance is the container vortex-<id>, and labels tell
// whose it is, so that several nodes may share an engine and a driver that was killed finds its instances
// again. Containers have no restart policy: deciding what runs is the scheduler's.
//
// It guarantees that an exit is yielded by Watch although the engine or the driver was away when it
// happened. It never touches a container without its node's label, and never removes an image.
//
//	d, err := docker.New(docker.Config{Node: "n1", Images: store, Log: log})
//	if err := d.Available(ctx); err != nil { … }
//	status, err := d.Start(ctx, runtime.InstanceSpec{ID: "web-1", App: "web", Image: "nginx:1.27"})
package docker
