// Package api is the REST API, its WebSocket streams and its documents, in front of the store.
//
// It guarantees: what it accepts was validated whole before anything was written; every refusal is one JSON object
// that says what was expected, what came and what to do next; nothing below /api/v1 answers without a token; the
// OpenAPI document describes the types the handlers really use, which are those of package client.
//
// It writes the records vortex:app and vortex:config only, and it starts, stops and places nothing: the loops do, and
// it tells from their records how far they are.
//
//	srv := &api.Server{Store: store, Token: token, Instances: agent, Images: images, Log: log}
//	http.Serve(listener, srv.Handler())
package api
