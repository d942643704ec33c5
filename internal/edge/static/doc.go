// Package static runs an edge alone: its listeners, routes and pools come from a file, and there is no cluster, store or agent.
//
// The file is read again when it changes or when Reload is called. Everything about a new one is checked, its names are looked up and its new
// addresses are opened before anything changes; a file that is not good is refused with one error that names line and field, and what was
// running goes on. What stays is not touched: its listeners are not closed, its connections and its backends' state are kept, so that a
// reload loses no request.
//
// Backends may be given by name. Names are looked up again and again, and each address of a name is a backend; a name that cannot be
// looked up keeps the addresses it had.
//
//	s, err := static.New(static.Config{File: "edge.yaml"})
//	err = s.Run(ctx)
package static
