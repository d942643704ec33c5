package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/client"
	recorded "vortex/internal/event"
	"vortex/internal/kind"
	"vortex/internal/spec"
)

const writeAttempts = 16 // how often a change is made anew because somebody else changed the record

// register creates an app or updates the one of its name.
func (s *Server) register(r *http.Request) (client.RegisterResponse, error) {
	none := client.RegisterResponse{}
	app, err := readSpec(r)
	if err != nil {
		return none, withCode(client.CodeInvalidSpec, err)
	}
	query := r.URL.Query()
	dry, err := flag(query.Get("dry_run"), "dry_run")
	if err != nil {
		return none, err
	}
	reg := registration{app: app, image: query.Get("image"), cause: "apply", dry: dry}
	if err := s.admit(r.Context(), &reg); err != nil {
		return none, err
	}
	return s.writeApp(r.Context(), reg)
}

// readSpec reads the one App spec of a request's body, JSON or YAML.
func readSpec(r *http.Request) (vortex.App, error) {
	data, err := readBody(r)
	if err != nil {
		return vortex.App{}, err
	}
	if len(data) == 0 {
		return vortex.App{}, vortex.Errorf(vortex.Invalid, "expected an App spec as the body, got nothing")
	}
	apps, err := spec.Parse("body", data)
	if err != nil {
		return vortex.App{}, err
	}
	if len(apps) != 1 {
		return vortex.App{}, vortex.Errorf(vortex.Invalid, "expected one App spec, got %d; register them one by one", len(apps))
	}
	return apps[0], nil
}

// flag reads a query parameter that is true or false.
func flag(value, name string) (bool, error) {
	if value == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, vortex.Errorf(vortex.Invalid, "%s: expected true or false, got %q", name, value)
	}
	return on, nil
}

// registration is a spec on its way into the store.
type registration struct {
	app   vortex.App
	image string // built for it; "" when the spec names one
	cause string
	dry   bool
}

// unbuilt reports whether nobody knows which image it would be: a dry run builds none.
func (r *registration) unbuilt() bool {
	return r.dry && r.image == "" && (r.app.Spec.Repo != "" || r.app.Spec.Path != "")
}

// admit refuses a spec that could never run here, before anything of it exists, and builds its image when it has to.
func (s *Server) admit(ctx context.Context, reg *registration) error {
	var err error
	s.Store.View(func(v kind.View) {
		if err = s.checkPorts(v, &reg.app); err == nil {
			err = checkCapacity(v, &reg.app)
		}
	})
	if err != nil {
		return err
	}
	what := reg.app.Spec
	switch {
	case reg.image != "":
		if err := s.checkImage(ctx, reg.image); err != nil || s.Builder == nil {
			return err
		}
		reg.image, err = s.Builder.Pin(ctx, reg.image)
		return err
	case what.Repo == "" && what.Path == "":
		if what.Image == "" || usesNoImage(&what) {
			return nil
		}
		return s.checkImage(ctx, what.Image)
	case reg.dry:
		return nil
	case s.Builder == nil:
		return withCode(client.CodeRuntime, vortex.Errorf(vortex.Precondition, "this server cannot build images; build it elsewhere and set spec.image"))
	}
	image, err := s.Builder.Build(ctx, client.BuildRequest{Name: reg.app.Metadata.Name, Repo: what.Repo, Path: what.Path}, func(client.Progress) {})
	if err != nil {
		return err
	}
	reg.image, err = s.Builder.Pin(ctx, image.Reference)
	return err
}

// usesNoImage reports whether the runtime ignores the spec's image: the simulator, and a program of the node.
func usesNoImage(what *vortex.AppSpec) bool {
	return what.Runtime == vortex.RuntimeNameSim ||
		what.Runtime == vortex.RuntimeNameProcess && len(what.Command) > 0 && strings.HasPrefix(what.Command[0], "/")
}

// checkImage refuses an image that is nowhere to be had.
func (s *Server) checkImage(ctx context.Context, ref string) error {
	if s.Images == nil {
		return nil
	}
	err := s.Images.Check(ctx, ref)
	if err == nil || vortex.KindOf(err) == vortex.Internal {
		return err
	}
	return withCode(client.CodeRuntime, vortex.Errorf(vortex.Precondition, "image %q is not to be had: %w", ref, err))
}

// checkPorts refuses host ports that another app or the system itself has.
func (s *Server) checkPorts(v kind.View, app *vortex.App) error {
	wanted := map[uint16]bool{}
	for _, p := range app.Spec.Ports {
		port := deref(p.HostPort)
		if port == 0 {
			continue
		}
		if by, taken := s.ReservedPorts[port]; taken {
			return vortex.Errorf(vortex.Precondition, "hostPort %d is used by %s; choose another, or leave hostPort out", port, by)
		}
		wanted[port] = true
	}
	if len(wanted) == 0 {
		return nil
	}
	for _, e := range kind.List(v, vortex.Apps) {
		if e.ID == app.Metadata.Name {
			continue
		}
		for _, p := range e.Value.Spec.Spec.Ports {
			if port := deref(p.HostPort); wanted[port] {
				return vortex.Errorf(vortex.Precondition, "hostPort %d is used by app %q; choose another, or leave hostPort out", port, e.ID)
			}
		}
	}
	return nil
}

// checkCapacity refuses an app no node could ever hold one instance of. While no node is known nothing is refused.
func checkCapacity(v kind.View, app *vortex.App) error {
	cpu, memory := app.Requests()
	var maxCPU, maxMemory uint64
	for _, e := range kind.List(v, vortex.Nodes) {
		node := e.Value
		if cpu <= node.CPUMillis && memory <= node.MemoryBytes {
			return nil
		}
		maxCPU, maxMemory = max(maxCPU, node.CPUMillis), max(maxMemory, node.MemoryBytes)
	}
	if maxCPU == 0 && maxMemory == 0 {
		return nil
	}
	return withCode(client.CodeInsufficientResources, vortex.Errorf(vortex.Precondition,
		"no node can hold an instance: it asks for %dm CPU and %d MiB memory, the largest node has %dm and %d MiB; lower spec.resources or add a larger node",
		cpu, memory>>20, maxCPU, maxMemory>>20))
}

// writeApp puts a registration into the store, unless it changes nothing.
func (s *Server) writeApp(ctx context.Context, reg registration) (client.RegisterResponse, error) {
	name := reg.app.Metadata.Name
	answer := client.RegisterResponse{AppName: name, DryRun: reg.dry}
	err := s.retry(ctx, func() error {
		before, exists := kind.Entry[vortex.AppRecord]{}, false
		s.Store.View(func(v kind.View) { before, exists = kind.Lookup(v, vortex.Apps, name) })
		now := time.Now().UTC()
		rec := vortex.AppRecord{Name: name, Spec: reg.app, Image: reg.image, Generation: 1, Cause: reg.cause, CreatedAt: now, UpdatedAt: now}
		answer.Status, answer.Generation = client.RegisteredCreated, 1
		if exists {
			found, err := changes(before.Value.Spec, reg.app)
			if err != nil {
				return err
			}
			if before.Value.Image != reg.image && !reg.unbuilt() {
				found = append(found, client.Change{Path: "image", Old: before.Value.Image, New: reg.image})
			}
			answer.Changes, answer.Generation = found, before.Value.Generation
			if len(found) == 0 {
				answer.Status = client.RegisteredUnchanged
				return nil
			}
			succeed(&rec, before.Value)
			answer.Status, answer.Generation = client.RegisteredUpdated, rec.Generation
		}
		if reg.dry {
			return nil
		}
		return s.putApp(ctx, rec, before.ModRevision, event{"AppRegistered", fmt.Sprintf("App %s %s (%s)", name, answer.Status, reg.cause)})
	})
	answer.Message = registeredMessage(answer)
	for _, path := range reg.app.Ineffective() {
		answer.Warnings = append(answer.Warnings, path+" is kept with the spec and has no effect in this version: scaling acts on requests a second")
	}
	return answer, err
}

func registeredMessage(answer client.RegisterResponse) string {
	switch {
	case answer.DryRun:
		return "App " + answer.AppName + " would be " + answer.Status
	case answer.Status == client.RegisteredUnchanged:
		return "App " + answer.AppName + " is unchanged"
	default:
		return "App " + answer.AppName + " " + answer.Status
	}
}

// succeed gives rec what it keeps of the record before it.
func succeed(rec *vortex.AppRecord, before *vortex.AppRecord) {
	rec.Generation = before.Generation + 1
	rec.CreatedAt, rec.RestartedAt, rec.Stopped = before.CreatedAt, before.RestartedAt, before.Stopped
	if sc := rec.Spec.Scaling; sc == nil || sc.Mode != vortex.ScalingModeManual {
		rec.Replicas, rec.ReplicasRevision = before.Replicas, before.ReplicasRevision
	}
}

// retry runs change again while it fails because somebody else changed what it changes.
func (s *Server) retry(ctx context.Context, change func() error) (err error) {
	for range writeAttempts {
		if err = change(); !vortex.IsKind(err, vortex.Conflict) {
			return err
		}
		s.fresh(ctx)
	}
	return err
}

// event is something a request did, for people.
type event struct{ kind, message string }

const eventTTL = 24 * time.Hour

// putApp writes an app's record, if it is still at revision, together with the event that tells of it.
func (s *Server) putApp(ctx context.Context, rec vortex.AppRecord, revision int64, ev event) error {
	put, err := kind.PutOp(vortex.Apps, &rec, rec.Name)
	if err != nil {
		return err
	}
	return s.commit(ctx, rec.Name, revision, put, ev)
}

// commit makes one write to an app's record, if it is still at revision, together with its event.
func (s *Server) commit(ctx context.Context, name string, revision int64, op kind.Op, ev event) error {
	now := time.Now().UTC()
	id := recorded.NewID(now)
	tell, err := kind.PutOp(vortex.Events, &vortex.EventRecord{
		ID: id, At: now, Severity: vortex.SeverityInfo, Component: "api", Type: ev.kind, Message: ev.message, ClientID: name,
		Cause: vortex.Apps.Key(name),
	}, id)
	if err != nil {
		return err
	}
	tell.TTL = eventTTL
	_, err = s.Store.Commit(ctx, kind.Txn{
		If:  []kind.Condition{kind.IfRevision(vortex.Apps.Key(name), revision)},
		Ops: []kind.Op{op, tell},
	})
	return err
}
