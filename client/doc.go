// Package client talks to a Vortex server: the REST API with its streams, and the state store over gRPC.
//
// It holds the types of the API's requests and answers; the server's handlers use the same ones, so what
// compiles against this package fits the server it came with. Errors the server answered are *Error and unwrap to
// *vortex.Error; a server that cannot be reached is an error of kind Unavailable that says what was tried.
//
// It reads no environment and prints nothing.
//
//	c, err := client.New(client.Options{Server: "http://127.0.0.1:7070", Token: token})
//	apps, err := c.Apps(ctx)
//	scaled, err := c.Scale(ctx, "web", client.ScaleRequest{Replicas: 5, Wait: true, Timeout: 60})
package client
