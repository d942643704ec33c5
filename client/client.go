package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"vortex"
)

// DefaultServer is where a server started without options answers.
const DefaultServer = "http://127.0.0.1:7070"

// Options say which server to talk to.
type Options struct {
	// Server is the base URL of the API; default DefaultServer.
	Server string
	// Token is the bearer token.
	Token string
	// TLS is for servers at https://.
	TLS TLS
	// HTTPClient makes the requests; default is one that does TLS as above. It should set no timeout: contexts bound requests.
	HTTPClient *http.Client
}

// Client talks to one server. Its methods are safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New returns a client; nothing is sent yet. The error is Invalid when the server's URL is none.
func New(opts Options) (*Client, error) {
	server := opts.Server
	if server == "" {
		server = DefaultServer
	}
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	base, err := url.Parse(strings.TrimRight(server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, vortex.Errorf(vortex.Invalid, "the server must be a URL such as %s, got %q", DefaultServer, opts.Server)
	}
	c := &Client{base: base, token: opts.Token, http: opts.HTTPClient}
	if c.http == nil {
		if c.http, err = opts.TLS.httpClient(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Server returns the base URL of the API.
func (c *Client) Server() string { return c.base.String() }

// api is the URL of a path of the API. Path elements must be escaped already.
func (c *Client) api(path string, query url.Values) string {
	u := c.base.String() + "/api/v1" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// request is one call of the API.
type request struct {
	method, path string
	query        url.Values
	body         io.Reader
	contentType  string
}

// send makes a request and returns an answer of 2xx, whose body the caller closes.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.api(r.path, r.query), r.body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, decodeError(resp)
	}
	return resp, nil
}

// unreachable says that the server does not answer, unless the caller gave up first.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cause := err
	if e, ok := errors.AsType[*url.Error](err); ok {
		cause = e.Err
	}
	if hint := tlsHint(cause.Error(), c.base.Scheme == "https"); hint != "" {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: fmt.Sprintf("the server at %s and this client do not agree: %s\n%s", c.base.Redacted(), cause, hint)}
	}
	return &vortex.Error{
		Kind: vortex.Unavailable,
		Msg: fmt.Sprintf("no server answers at %s: %s\nstart one with `vortex up`, or name another with --server or `vortex context`",
			c.base.Redacted(), cause),
	}
}

// call sends in as JSON, or nothing when it is nil, and reads the answer into out unless that is nil.
func (c *Client) call(ctx context.Context, r request, in, out any) error {
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		r.body, r.contentType = bytes.NewReader(data), "application/json"
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &vortex.Error{Kind: vortex.Unavailable, Msg: c.base.Redacted() + " does not answer like a Vortex server", Err: err}
	}
	return nil
}

// get reads the answer to a GET.
func get[T any](ctx context.Context, c *Client, query url.Values, path ...string) (T, error) {
	var out T
	err := c.call(ctx, request{method: http.MethodGet, path: join(path), query: query}, nil, &out)
	return out, err
}

// post sends in and reads the answer.
func post[T any](ctx context.Context, c *Client, in any, path ...string) (T, error) {
	var out T
	err := c.call(ctx, request{method: http.MethodPost, path: join(path)}, in, &out)
	return out, err
}

// join makes a path of elements, each escaped.
func join(elements []string) string {
	var b strings.Builder
	for _, e := range elements {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(e))
	}
	return b.String()
}

// Register creates an app or updates the one of its name. image is the one built for spec.repo or spec.path, else "".
func (c *Client) Register(ctx context.Context, app vortex.App, image string, dryRun bool) (RegisterResponse, error) {
	query := url.Values{}
	if image != "" {
		query.Set("image", image)
	}
	if dryRun {
		query.Set("dry_run", "true")
	}
	var out RegisterResponse
	err := c.call(ctx, request{method: http.MethodPost, path: "/apps/register", query: query}, app, &out)
	return out, err
}

// Apps lists the apps.
func (c *Client) Apps(ctx context.Context) (AppList, error) { return get[AppList](ctx, c, nil, "apps") }

// App returns an app with its instances.
func (c *Client) App(ctx context.Context, name string) (App, error) {
	return get[App](ctx, c, nil, "apps", name)
}

// Spec returns an app's spec.
func (c *Client) Spec(ctx context.Context, name string) (vortex.App, error) {
	return get[vortex.App](ctx, c, nil, "apps", name, "spec")
}

// Instances lists the instances of an app, or of all apps when it is "".
func (c *Client) Instances(ctx context.Context, app string) (ContainerList, error) {
	query := url.Values{}
	if app != "" {
		query.Set("app", app)
	}
	return get[ContainerList](ctx, c, query, "instances")
}

// Instance returns one instance by its id, or by a start of it that no other has.
func (c *Client) Instance(ctx context.Context, id string) (Container, error) {
	return get[Container](ctx, c, nil, "instances", id)
}

// History lists an app's releases, newest first.
func (c *Client) History(ctx context.Context, app string) (History, error) {
	return get[History](ctx, c, nil, "apps", app, "history")
}

// Health returns the last known health of an app's instances.
func (c *Client) Health(ctx context.Context, app string) (AppHealth, error) {
	return get[AppHealth](ctx, c, nil, "apps", app, "health")
}

// CheckHealth checks an app's instances now.
func (c *Client) CheckHealth(ctx context.Context, app string) (AppHealth, error) {
	return post[AppHealth](ctx, c, nil, "apps", app, "health", "check")
}

// Scaling tells how an app scales.
func (c *Client) Scaling(ctx context.Context, app string) (Scaling, error) {
	return get[Scaling](ctx, c, nil, "apps", app, "scaling")
}

// SetScaling replaces an app's scaling block.
func (c *Client) SetScaling(ctx context.Context, app string, scaling vortex.Scaling) (Scaling, error) {
	var out Scaling
	err := c.call(ctx, request{method: http.MethodPut, path: join([]string{"apps", app, "scaling"})}, scaling, &out)
	return out, err
}

// Logs returns what an app's instances wrote, oldest first. Follow is ignored: see FollowLogs.
func (c *Client) Logs(ctx context.Context, app string, opts LogOptions) ([]LogEntry, error) {
	return get[[]LogEntry](ctx, c, opts.query(), "apps", app, "logs")
}

func (o LogOptions) query() url.Values {
	query := url.Values{"tail": {strconv.Itoa(o.Tail)}}
	if o.Since > 0 {
		query.Set("since", o.Since.String())
	}
	if o.Instance != "" {
		query.Set("instance", o.Instance)
	}
	return query
}

// Start runs a stopped app again.
func (c *Client) Start(ctx context.Context, app string, req WaitRequest) (ActionResponse, error) {
	return post[ActionResponse](ctx, c, req, "apps", app, "start")
}

// Stop stops all instances of an app; the app stays.
func (c *Client) Stop(ctx context.Context, app string, req WaitRequest) (ActionResponse, error) {
	return post[ActionResponse](ctx, c, req, "apps", app, "stop")
}

// Restart replaces all instances of an app.
func (c *Client) Restart(ctx context.Context, app string, req WaitRequest) (ActionResponse, error) {
	return post[ActionResponse](ctx, c, req, "apps", app, "restart")
}

// Scale asks for a number of instances. In auto mode the autoscaler takes over at the next change of traffic.
func (c *Client) Scale(ctx context.Context, app string, req ScaleRequest) (ActionResponse, error) {
	return post[ActionResponse](ctx, c, req, "apps", app, "scale")
}

// Rollback goes back to an earlier release.
func (c *Client) Rollback(ctx context.Context, app string, req RollbackRequest) (ActionResponse, error) {
	return post[ActionResponse](ctx, c, req, "apps", app, "rollback")
}

// Delete deletes an app with all its instances.
func (c *Client) Delete(ctx context.Context, app string, req WaitRequest) (ActionResponse, error) {
	query := url.Values{}
	if req.Wait {
		query.Set("wait", "true")
	}
	if req.Timeout > 0 {
		query.Set("timeout", strconv.FormatFloat(req.Timeout, 'f', -1, 64))
	}
	var out ActionResponse
	err := c.call(ctx, request{method: http.MethodDelete, path: join([]string{"apps", app}), query: query}, nil, &out)
	return out, err
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) (NodeList, error) {
	return get[NodeList](ctx, c, nil, "nodes")
}

// Cordon lets nothing new be placed on a node.
func (c *Client) Cordon(ctx context.Context, node string, req CordonRequest) (Node, error) {
	return post[Node](ctx, c, req, "nodes", node, "cordon")
}

// Drain lets nothing new be placed on a node and begins to move everything away from it.
func (c *Client) Drain(ctx context.Context, node string, req CordonRequest) (Node, error) {
	return post[Node](ctx, c, req, "nodes", node, "drain")
}

// Uncordon takes a Cordon or Drain back.
func (c *Client) Uncordon(ctx context.Context, node string) (Node, error) {
	return post[Node](ctx, c, nil, "nodes", node, "uncordon")
}

// Label gives a node labels, or takes them back.
func (c *Client) Label(ctx context.Context, node string, req LabelsRequest) (Node, error) {
	return post[Node](ctx, c, req, "nodes", node, "labels")
}

// Events returns the newest events, oldest first.
func (c *Client) Events(ctx context.Context, opts EventOptions) (EventList, error) {
	query := url.Values{}
	if opts.App != "" {
		query.Set("app", opts.App)
	}
	if opts.Limit > 0 {
		query.Set("limit", strconv.Itoa(opts.Limit))
	}
	return get[EventList](ctx, c, query, "events")
}

// Metrics tells what all apps did in the last seconds.
func (c *Client) Metrics(ctx context.Context) (ClusterMetrics, error) {
	return get[ClusterMetrics](ctx, c, nil, "metrics")
}

// AppMetrics tells what an app did in the last seconds.
func (c *Client) AppMetrics(ctx context.Context, app string) (AppMetrics, error) {
	return get[AppMetrics](ctx, c, nil, "apps", app, "metrics")
}

// Config returns the settings in force.
func (c *Client) Config(ctx context.Context) (Config, error) {
	return get[Config](ctx, c, nil, "config")
}

// SetConfig changes the settings that cfg names and returns those in force after it.
func (c *Client) SetConfig(ctx context.Context, cfg Config) (Config, error) {
	var out Config
	err := c.call(ctx, request{method: http.MethodPut, path: "/config"}, cfg, &out)
	return out, err
}

// Cluster returns the leader, the servers and the state of the store.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	return get[Cluster](ctx, c, nil, "cluster")
}

// Ready asks the server whether it is ready, and for what holds it up. It needs no token.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	var out Readiness
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+"/readyz", http.NoBody)
	if err != nil {
		return out, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, &vortex.Error{Kind: vortex.Unavailable, Msg: c.base.Redacted() + " does not answer like a Vortex server", Err: err}
	}
	return out, nil
}
