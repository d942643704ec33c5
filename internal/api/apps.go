package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
	"vortex/internal/kind/ksl"
)

// errNoApp says that there is no app of a name, and which was meant.
func errNoApp(v kind.View, name string) error {
	var names []string
	for _, e := range kind.List(v, vortex.Apps) {
		names = append(names, e.ID)
	}
	hint := "; `vortex apps` lists them"
	if near := ksl.Nearest(name, names); near != "" {
		hint = "; did you mean " + strconv.Quote(near) + "?"
	}
	return withCode(client.CodeAppNotFound, vortex.Errorf(vortex.NotFound, "no app %q%s", name, hint))
}

// facts reads the facts of the app of a name.
func (s *Server) facts(name string) (f facts, err error) {
	s.Store.View(func(v kind.View) {
		app, ok := kind.Lookup(v, vortex.Apps, name)
		if !ok {
			err = errNoApp(v, name)
			return
		}
		f = collect(v, app.Value)
	})
	return f, err
}

// appRecord reads the record of the app of a name.
func (s *Server) appRecord(name string) (entry kind.Entry[vortex.AppRecord], err error) {
	s.Store.View(func(v kind.View) {
		var ok bool
		if entry, ok = kind.Lookup(v, vortex.Apps, name); !ok {
			err = errNoApp(v, name)
		}
	})
	return entry, err
}

// app is the app of a name as it is now.
func (s *Server) app(ctx context.Context, name string) (client.App, error) {
	f, err := s.facts(name)
	if err != nil {
		return client.App{}, err
	}
	s.measure(ctx, &f)
	return f.full(), nil
}

// apps is the list of apps as it is now.
func (s *Server) apps(ctx context.Context) client.AppList {
	var all []facts
	s.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Apps) {
			all = append(all, collect(v, e.Value))
		}
	})
	list := client.AppList{Apps: []client.AppSummary{}, Total: len(all)}
	for i := range all {
		s.measure(ctx, &all[i])
		app := all[i].summary()
		list.Apps = append(list.Apps, app)
		switch app.Status {
		case client.StatusStopped:
			list.Stopped++
		case client.StatusError:
			list.Error++
		default:
			list.Running++
		}
	}
	return list
}

func (s *Server) listApps(r *http.Request) (client.AppList, error) { return s.apps(r.Context()), nil }

func (s *Server) getApp(r *http.Request) (client.App, error) {
	return s.app(r.Context(), r.PathValue("app"))
}

func (s *Server) getSpec(r *http.Request) (vortex.App, error) {
	rec, err := s.appRecord(r.PathValue("app"))
	if err != nil {
		return vortex.App{}, err
	}
	return rec.Value.Spec, nil
}

func (s *Server) getAppMetrics(r *http.Request) (client.AppMetrics, error) {
	app, err := s.getApp(r)
	return app.Metrics, err
}

func (s *Server) getAppEvents(r *http.Request) (client.EventList, error) {
	if _, err := s.appRecord(r.PathValue("app")); err != nil {
		return client.EventList{}, err
	}
	return s.events(r, r.PathValue("app"))
}

func (s *Server) getHealth(r *http.Request) (client.AppHealth, error) {
	f, err := s.facts(r.PathValue("app"))
	if err != nil {
		return client.AppHealth{}, err
	}
	return f.health(), nil
}

// health is the last known health of the running instances.
func (f *facts) health() client.AppHealth {
	summary := f.summary()
	h := client.AppHealth{
		App: f.app.Name, Status: summary.Status, Healthy: summary.Replicas.Healthy,
		Instances: []client.InstanceHealth{},
	}
	if check, ok := f.app.Spec.Probe(); ok {
		h.Check = &check
	}
	for _, c := range f.containers {
		if c.Status == string(vortex.ContainerStatusRunning) {
			h.Instances = append(h.Instances, client.InstanceHealth{ID: c.ID, Health: c.Health, Detail: c.HealthDetail})
		}
	}
	h.Total = len(h.Instances)
	return h
}

// checkHealth checks every running instance now, where this server can, and tells what it found.
func (s *Server) checkHealth(r *http.Request, _ struct{}) (client.AppHealth, error) {
	h, err := s.getHealth(r)
	if err != nil || s.Checker == nil || h.Check == nil {
		return h, err
	}
	h.Healthy = 0
	for i, inst := range h.Instances {
		healthy, detail, err := s.Checker.Check(r.Context(), inst.ID)
		switch {
		case err != nil:
			h.Instances[i].Detail = "not checked: " + err.Error()
			continue
		case healthy:
			h.Healthy++
			h.Instances[i].Health = string(vortex.HealthHealthy)
		default:
			h.Instances[i].Health = string(vortex.HealthUnhealthy)
		}
		h.Instances[i].Detail = detail
	}
	return h, nil
}

func (s *Server) getHistory(r *http.Request) (client.History, error) {
	name := r.PathValue("app")
	if _, err := s.appRecord(name); err != nil {
		return client.History{}, err
	}
	history := client.History{App: name, Releases: []client.Release{}}
	releases, active := s.releases(name)
	for _, rel := range releases {
		history.Releases = append(history.Releases, client.Release{
			Number: rel.Number, Active: rel.Number == active, Image: releaseImage(rel), Cause: rel.Cause, CreatedAt: rel.CreatedAt,
		})
	}
	return history, nil
}

func releaseImage(rel *vortex.ReleaseRecord) string {
	return imageOf(&vortex.AppRecord{Image: rel.Image, Spec: rel.Spec})
}

// releases returns an app's releases, newest first, and the number of the active one.
func (s *Server) releases(name string) (releases []*vortex.ReleaseRecord, active uint64) {
	s.Store.View(func(v kind.View) {
		for _, e := range kind.Find(v, vortex.Releases, "client_id", name) {
			releases = append(releases, e.Value)
		}
		if e, ok := kind.Lookup(v, vortex.Rollouts, name); ok {
			active = e.Value.Active
		}
	})
	slices.SortFunc(releases, func(a, b *vortex.ReleaseRecord) int { return int(b.Number) - int(a.Number) })
	return releases, active
}

func (s *Server) listInstances(r *http.Request) (client.ContainerList, error) {
	only := r.URL.Query().Get("app")
	list := client.ContainerList{Instances: []client.Container{}}
	var err error
	s.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Apps) {
			if only == "" || e.ID == only {
				list.Instances = append(list.Instances, containersOf(v, e.ID, nil)...)
			}
		}
		if _, ok := kind.Lookup(v, vortex.Apps, only); !ok && only != "" {
			err = errNoApp(v, only)
		}
	})
	list.Total = len(list.Instances)
	return list, err
}

func (s *Server) getInstance(r *http.Request) (client.Container, error) {
	return s.instance(r.PathValue("id"))
}

// instance finds an instance by its id, or by a start of it that only one has.
func (s *Server) instance(id string) (found client.Container, err error) {
	var matches []client.Container
	s.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Apps) {
			for _, c := range containersOf(v, e.ID, nil) {
				if c.ID == id {
					matches = []client.Container{c}
					return
				}
				if strings.HasPrefix(c.ID, id) {
					matches = append(matches, c)
				}
			}
		}
	})
	switch len(matches) {
	case 1:
		return matches[0], nil
	case 0:
		return found, vortex.Errorf(vortex.NotFound, "no instance %q; `vortex ps` lists them", id)
	default:
		return found, vortex.Errorf(vortex.Invalid, "%d instances start with %q, %s and %s among them; write more of the id", len(matches), id, matches[0].ID, matches[1].ID)
	}
}
