package api

import (
	"net/http"
	"reflect"

	"vortex"
	"vortex/client"
)

// operations is the API: every operation below prefix.
func (s *Server) operations() []operation {
	var ops []operation
	for _, group := range [][]operation{s.appOperations(), s.actionOperations(), s.clusterOperations(), s.imageOperations(), s.streamOperations()} {
		ops = append(ops, group...)
	}
	return ops
}

var (
	dryRun   = param{"dry_run", "true: check everything and say what would change, but write nothing"}
	appName  = param{"app", "of this app only"}
	tail     = param{"tail", "at most the last N entries; 0 is all"}
	since    = param{"since", "not older than this: a duration such as 10m, or a time as in RFC 3339"}
	instance = param{"instance", "of this instance only"}
	limit    = param{"limit", "at most the newest N; default 200"}
	wait     = param{"wait", "true: answer when everything of the app is gone"}
	timeout  = param{"timeout", "seconds to wait; default 300"}
	force    = param{"force", "true: remove it although it is in use"}
	name     = param{"name", "the image's name"}
	command  = param{"command", "the command and, repeated, its arguments"}
	tty      = param{"tty", "true: give the command a terminal"}
	user     = param{"user", "uid, uid:gid or name to run it as"}
)

func (s *Server) appOperations() []operation {
	const get = http.MethodGet
	register := read(http.MethodPost, "/apps/register", "Create an app, or update the one of the same name", s.register,
		dryRun, param{"image", "the image built for spec.repo or spec.path"})
	register.In = reflect.TypeFor[vortex.App]()
	return []operation{
		register,
		read(get, "/apps", "List apps", s.listApps),
		read(get, "/apps/{app}", "One app with its instances", s.getApp),
		read(get, "/apps/{app}/spec", "The spec as the user wrote it, defaults filled in", s.getSpec),
		read(get, "/apps/{app}/metrics", "What the app did in the last seconds", s.getAppMetrics),
		read(get, "/apps/{app}/events", "What happened to the app, oldest first", s.getAppEvents, limit),
		read(get, "/apps/{app}/logs", "What its instances wrote, oldest first", s.getLogs, tail, since, instance),
		read(get, "/apps/{app}/scaling", "How it scales", s.getScaling),
		write(http.MethodPut, "/apps/{app}/scaling", "Change how it scales; the block is replaced", s.putScaling),
		read(get, "/apps/{app}/health", "The health of its instances", s.getHealth),
		read(get, "/apps/{app}/history", "Its releases, newest first", s.getHistory),
		read(get, "/instances", "List instances of all apps", s.listInstances, appName),
		read(get, "/instances/{id}", "One instance", s.getInstance),
	}
}

func (s *Server) actionOperations() []operation {
	const post = http.MethodPost
	return []operation{
		write(post, "/apps/{app}/start", "Run the app again", s.start),
		write(post, "/apps/{app}/stop", "Stop all its instances; the app stays", s.stop),
		write(post, "/apps/{app}/restart", "Replace all its instances, with no request lost", s.restart),
		write(post, "/apps/{app}/rollback", "Go back to an earlier release", s.rollback),
		write(post, "/apps/{app}/scale", "Ask for a number of instances", s.scale),
		write(post, "/apps/{app}/health/check", "Check its instances now", s.checkHealth),
		read(http.MethodDelete, "/apps/{app}", "Delete the app with all its instances", s.deleteApp, wait, timeout),
	}
}

func (s *Server) clusterOperations() []operation {
	const get = http.MethodGet
	return []operation{
		read(get, "/nodes", "List nodes", s.listNodes),
		write(http.MethodPost, "/nodes/{node}/cordon", "Place nothing new on a node", s.cordonNode),
		write(http.MethodPost, "/nodes/{node}/drain", "Place nothing new on a node and move its instances elsewhere", s.drainNode),
		read(http.MethodPost, "/nodes/{node}/uncordon", "Place instances on a node again", s.uncordonNode),
		write(http.MethodPost, "/nodes/{node}/labels", "Give a node labels, or take them back", s.labelNode),
		read(get, "/edges", "List edges with their routes and backends", s.listEdges),
		read(get, "/events", "What happened, oldest first", s.getEvents, appName, limit),
		read(get, "/metrics", "What all apps did in the last seconds", s.getMetrics),
		read(get, "/config", "The settings in force", s.getConfig),
		write(http.MethodPut, "/config", "Change settings; what is absent stays", s.putConfig),
		read(get, "/cluster", "The leader, the servers and the state of the store", s.getCluster),
	}
}

func (s *Server) imageOperations() []operation {
	const post = http.MethodPost
	pull := stream[client.Progress](answerLines, post, "/images/pull", "Pull an image from its registry", s.pullImage)
	push := stream[client.Progress](answerLines, post, "/images/push", "Push an image to its registry", s.pushImage)
	build := stream[client.Progress](answerLines, post, "/images/build",
		"Build an image: of a JSON body that names a repository or a directory of the server's machine, or of a directory sent as application/x-tar", s.buildImage,
		name, param{"dockerfile", "of a tar stream: its Dockerfile's name"})
	pull.In, push.In, build.In = reflect.TypeFor[client.PullRequest](), reflect.TypeFor[client.PullRequest](), reflect.TypeFor[client.BuildRequest]()
	return []operation{
		read(http.MethodGet, "/images", "List local images", s.listImages),
		pull, push, build,
		stream[client.Progress](answerLines, post, "/images/import", "Import an archive made by docker save, or an OCI archive", s.importImage, name),
		read(http.MethodDelete, "/images/{reference...}", "Remove a local image", s.removeImage, force),
	}
}

func (s *Server) streamOperations() []operation {
	const get = http.MethodGet
	return []operation{
		stream[client.AppList](answerWS, get, "/stream", "The list of apps, whenever it changes", s.streamApps),
		stream[client.App](answerWS, get, "/apps/{app}/stream", "The app, whenever it changes", s.streamApp),
		stream[client.Event](answerWS, get, "/events/stream", "Events as they happen", s.streamEvents, appName),
		stream[client.LogEntry](answerWS, get, "/apps/{app}/logs/stream", "What its instances write; tail and since choose what comes first", s.streamLogs, tail, since, instance),
		stream[client.AppMetrics](answerWS, get, "/apps/{app}/metrics/stream", "What the app did, every second", s.streamMetrics),
		stream[client.LogEntry](answerWS, get, "/apps/{app}/exec", "Run a command in one of its instances; frames as in package client", s.execApp, command, tty, user),
		stream[client.LogEntry](answerWS, get, "/instances/{id}/exec", "Run a command in an instance; frames as in package client", s.execInstance, command, tty, user),
	}
}
