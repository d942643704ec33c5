// Package spec turns the documents users write into apps: YAML and JSON App specs, and compose files.
//
// It is strict: a field the schema does not know, a value of another type, a key given twice or a rule of
// vortex.App that is broken is an Invalid error that shows every fault with file, line, column, the source line and
// what to write instead. What it accepts is complete: defaults are set and Validate has passed.
//
// Field names, types and defaults come from schema/vortex.ksl, so there is no second list of them. Anchors, aliases and
// merge keys may be used within one document; what they expand to is bounded. Variables are not replaced, except in compose files.
//
// The package never reaches the network. It reads the files that Load and Files are given, and, for a compose file whose
// directory the caller names, the .env and env_file beside it.
//
// # Compose files
//
// A document with services is a compose file; each service becomes an app of the same name:
//
//   - The type is worker when no port is published, tcp when all published ports are UDP, those of well-known services that do
//     not speak HTTP (5432, 6379, …) or have another app_protocol, and http otherwise. The label vortex.type overrides it.
//   - A published port becomes a host port; a port without a published one and what expose names do not.
//   - scale or deploy.replicas becomes manual scaling; without them there is one replica, as compose runs it. The
//     label vortex.scaling: auto makes it the floor of automatic scaling.
//   - entrypoint becomes command and command becomes args; a healthcheck becomes an EXEC check, its start_period the initial
//     delay; named volumes become volumes of their app; depends_on, labels, limits and reservations keep their meaning.
//   - always, unless-stopped and on-failure are what Vortex does anyway; restart: "no" is refused.
//   - ${NAME} is replaced from Parser.Environment and .env. A variable that is not set and has no default is refused.
//
// Every key that has no meaning here is refused, all of them in one error.
//
//	apps, err := spec.Parse("web.yaml", data)
package spec
