package api

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

const (
	defaultWait = 300 * time.Second
	maxWait     = 24 * time.Hour
)

// waiting turns the seconds of a request into how long to wait.
func waiting(seconds float64) (time.Duration, error) {
	switch {
	case seconds == 0:
		return defaultWait, nil
	case seconds < 0 || math.IsNaN(seconds) || seconds > maxWait.Seconds():
		return 0, vortex.Errorf(vortex.Invalid, "timeout: expected seconds from 0 to %d, got %g", int(maxWait.Seconds()), seconds)
	default:
		return time.Duration(seconds * float64(time.Second)), nil
	}
}

// change reads an app's record, lets edit change a copy of it, and writes it. When edit returns no
// event nothing is written.
func (s *Server) change(ctx context.Context, name string, edit func(*vortex.AppRecord) (event, error)) (rec vortex.AppRecord, err error) {
	err = s.retry(ctx, func() error {
		entry, err := s.appRecord(name)
		if err != nil {
			return err
		}
		rec = *entry.Value
		if sc := rec.Spec.Scaling; sc != nil {
			own := *sc
			rec.Spec.Scaling = &own
		}
		ev, err := edit(&rec)
		if err != nil || ev == (event{}) {
			return err
		}
		rec.UpdatedAt = time.Now().UTC()
		return s.putApp(ctx, rec, entry.ModRevision, ev)
	})
	return rec, err
}

// act changes an app, waits for what is asked, and answers how it stands before and after.
func (s *Server) act(r *http.Request, a action) (client.ActionResponse, error) {
	ctx, name := r.Context(), r.PathValue("app")
	before, err := s.facts(name)
	if err != nil {
		return client.ActionResponse{}, err
	}
	limit, err := waiting(a.timeout)
	if err != nil {
		return client.ActionResponse{}, err
	}
	rec, err := s.change(ctx, name, a.edit)
	if err != nil {
		return client.ActionResponse{}, err
	}
	if a.wait {
		if err := s.await(ctx, name, limit, a.done); err != nil {
			return client.ActionResponse{}, err
		}
	}
	after, err := s.facts(name)
	if err != nil {
		return client.ActionResponse{}, err
	}
	return client.ActionResponse{
		Message: a.message, AppName: name, Generation: rec.Generation, Release: a.release,
		PreviousReplicas: before.replicas().Current, CurrentReplicas: after.replicas().Current,
		DesiredReplicas: after.replicas().Desired,
	}, nil
}

// action is a change of an app that a request asks for.
type action struct {
	edit    func(*vortex.AppRecord) (event, error)
	wait    bool
	timeout float64 // seconds
	done    goal    // what wait waits for
	message string
	release uint64
}

func (s *Server) start(r *http.Request, in client.WaitRequest) (client.ActionResponse, error) {
	name := r.PathValue("app")
	return s.act(r, action{
		edit: func(rec *vortex.AppRecord) (event, error) {
			if !deref(rec.Stopped) {
				return event{}, nil
			}
			rec.Stopped = nil
			return event{"AppStarted", "App " + name + " started"}, nil
		},
		wait: in.Wait, timeout: in.Timeout, done: servesAll, message: "App " + name + " starts",
	})
}

func (s *Server) stop(r *http.Request, in client.WaitRequest) (client.ActionResponse, error) {
	name := r.PathValue("app")
	return s.act(r, action{
		edit: func(rec *vortex.AppRecord) (event, error) {
			if deref(rec.Stopped) {
				return event{}, nil
			}
			stopped := true
			rec.Stopped = &stopped
			return event{"AppStopped", "App " + name + " stopped by hand"}, nil
		},
		wait: in.Wait, timeout: in.Timeout, done: runsNothing, message: "App " + name + " stops",
	})
}

func (s *Server) restart(r *http.Request, in client.WaitRequest) (client.ActionResponse, error) {
	name := r.PathValue("app")
	var generation uint64
	return s.act(r, action{
		edit: func(rec *vortex.AppRecord) (event, error) {
			if deref(rec.Stopped) {
				return event{}, vortex.Errorf(vortex.Precondition, "app %q is stopped; start it with `vortex start %s`", name, name)
			}
			rec.RestartedAt = time.Now().UTC()
			rec.Generation++
			rec.Cause = "restart"
			generation = rec.Generation
			return event{"AppRestarted", "App " + name + " restarted by hand"}, nil
		},
		wait: in.Wait, timeout: in.Timeout, message: "App " + name + " restarts",
		done: func(app *client.App) (bool, error) { return rolledOut(app, generation) },
	})
}

func (s *Server) scale(r *http.Request, in client.ScaleRequest) (client.ActionResponse, error) {
	name := r.PathValue("app")
	if in.Replicas == nil {
		return client.ActionResponse{}, vortex.Errorf(vortex.Invalid, `expected {"replicas": N}, got no replicas`)
	}
	count := *in.Replicas
	revision := uint64(s.Store.Revision()) //nolint:gosec // revisions are positive
	return s.act(r, action{
		edit: func(rec *vortex.AppRecord) (event, error) {
			if err := s.checkCount(&rec.Spec, count); err != nil {
				return event{}, err
			}
			replicas := uint32(count) //nolint:gosec // checkCount bounds it
			rec.Replicas, rec.ReplicasRevision = &replicas, &revision
			if sc := rec.Spec.Scaling; sc != nil && sc.Mode == vortex.ScalingModeManual {
				sc.Replicas = &replicas
			}
			return event{"ScaledByHand", fmt.Sprintf("App %s scaled to %d by hand", name, count)}, nil
		},
		wait: in.Wait, timeout: in.Timeout, message: fmt.Sprintf("App %s scales to %d", name, count),
		done: func(app *client.App) (bool, error) {
			have := app.Replicas
			return have.Desired == count && have.Current == count && have.Healthy == count, nil
		},
	})
}

// checkCount refuses a number of instances the app or the cluster does not allow.
func (s *Server) checkCount(app *vortex.App, count int) error {
	limit, whose := s.settings().MaxReplicas, "cluster.max_replicas"
	if sc := app.Scaling; sc != nil && sc.MaxReplicas != nil && *sc.MaxReplicas <= limit {
		limit, whose = *sc.MaxReplicas, "the app's scaling.maxReplicas"
	}
	if count < 0 || count > int(limit) {
		return vortex.Errorf(vortex.Invalid, "replicas: expected 0 to %d (%s), got %d", limit, whose, count)
	}
	return nil
}

// rollback makes an earlier release's spec the newest.
func (s *Server) rollback(r *http.Request, in client.RollbackRequest) (client.ActionResponse, error) {
	name := r.PathValue("app")
	if _, err := s.appRecord(name); err != nil {
		return client.ActionResponse{}, err
	}
	target, err := s.releaseToReturnTo(name, in.Release)
	if err != nil {
		return client.ActionResponse{}, err
	}
	var generation uint64
	return s.act(r, action{
		edit: func(rec *vortex.AppRecord) (event, error) {
			rec.Spec, rec.Image = target.Spec, target.Image
			rec.Generation++
			rec.Cause = "rollback to " + utoa(target.Number)
			generation = rec.Generation
			return event{"RolledBack", fmt.Sprintf("App %s goes back to release %d", name, target.Number)}, nil
		},
		wait: in.Wait, timeout: in.Timeout, release: target.Number,
		message: fmt.Sprintf("App %s goes back to release %d", name, target.Number),
		done:    func(app *client.App) (bool, error) { return rolledOut(app, generation) },
	})
}

// releaseToReturnTo finds release number, or the newest before the active one that differs from it when number is 0.
func (s *Server) releaseToReturnTo(name string, number uint64) (*vortex.ReleaseRecord, error) {
	releases, active := s.releases(name)
	if number != 0 {
		for _, rel := range releases {
			if rel.Number == number {
				return rel, nil
			}
		}
		return nil, vortex.Errorf(vortex.NotFound, "app %q has no release %d; `vortex history %s` lists them", name, number, name)
	}
	at := slices.IndexFunc(releases, func(rel *vortex.ReleaseRecord) bool { return rel.Number == active })
	if at >= 0 {
		for _, rel := range releases[at+1:] {
			if template(rel) != template(releases[at]) {
				return rel, nil
			}
		}
	}
	return nil, vortex.Errorf(vortex.Precondition, "app %q has no release before the active one; nothing to go back to", name)
}

// template identifies what a release's instances are made from. Restarting makes a release but changes nothing of that.
func template(rel *vortex.ReleaseRecord) string { return rel.Spec.TemplateHash(rel.Image, time.Time{}) }

// deleteApp removes an app's record; the loops remove the rest.
func (s *Server) deleteApp(r *http.Request) (client.ActionResponse, error) {
	ctx, name, query := r.Context(), r.PathValue("app"), r.URL.Query()
	none := client.ActionResponse{}
	wait, err := flag(query.Get("wait"), "wait")
	if err != nil {
		return none, err
	}
	limit := defaultWait
	if text := query.Get("timeout"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return none, vortex.Errorf(vortex.Invalid, "timeout: expected seconds, got %q", text)
		}
		if limit, err = waiting(seconds); err != nil {
			return none, err
		}
	}
	before, err := s.facts(name)
	if err != nil {
		return none, err
	}
	err = s.retry(ctx, func() error {
		entry, err := s.appRecord(name)
		if err != nil {
			return err
		}
		return s.commit(ctx, name, entry.ModRevision, kind.DeleteOp(vortex.Apps, name), event{"AppDeleted", "App " + name + " deleted"})
	})
	if err != nil {
		return none, err
	}
	answer := client.ActionResponse{Message: "App " + name + " is deleted", AppName: name, PreviousReplicas: before.replicas().Current}
	if wait {
		err = s.awaitGone(ctx, name, limit)
	}
	return answer, err
}

// getScaling tells how an app scales.
func (s *Server) getScaling(r *http.Request) (client.Scaling, error) {
	f, err := s.facts(r.PathValue("app"))
	if err != nil {
		return client.Scaling{}, err
	}
	answer := client.Scaling{Current: f.replicas().Current, Desired: f.replicas().Desired}
	if f.app.Spec.Scaling != nil {
		answer.Scaling = *f.app.Spec.Scaling
	}
	answer.Effective = s.effectiveScaling(answer.Scaling)
	if f.app.Replicas != nil {
		asked := int(*f.app.Replicas)
		answer.Asked = &asked
	}
	if job, err := kind.Get(s.Store, vortex.ScaleJobs, f.app.Name); err == nil {
		answer.Reason = job.Value.Reason
	}
	return answer, nil
}

// effectiveScaling fills in what holds where an app's block says nothing.
func (s *Server) effectiveScaling(own vortex.Scaling) vortex.Scaling {
	set := s.settings()
	target := 100.0
	own.Mode = cmp.Or(own.Mode, vortex.ScalingModeAuto)
	own.MinReplicas = cmp.Or(own.MinReplicas, &set.MinReplicas)
	own.MaxReplicas = cmp.Or(own.MaxReplicas, &set.MaxReplicas)
	own.TargetRPSPerReplica = cmp.Or(own.TargetRPSPerReplica, &target)
	own.MaxScaleOutStep = cmp.Or(own.MaxScaleOutStep, &set.StepUp)
	own.MaxScaleInStep = cmp.Or(own.MaxScaleInStep, &set.StepDown)
	return own
}

// putScaling replaces an app's scaling block.
func (s *Server) putScaling(r *http.Request, in vortex.Scaling) (client.Scaling, error) {
	in.SetDefaults()
	name := r.PathValue("app")
	_, err := s.change(r.Context(), name, func(rec *vortex.AppRecord) (event, error) {
		rec.Spec.Scaling = &in
		if err := rec.Spec.Validate(); err != nil {
			return event{}, withCode(client.CodeValidation, err)
		}
		rec.Generation++
		rec.Cause = "scaling changed"
		if in.Mode == vortex.ScalingModeManual {
			rec.Replicas, rec.ReplicasRevision = nil, nil
		}
		return event{"ScalingChanged", "App " + name + ": the scaling block was replaced"}, nil
	})
	if err != nil {
		return client.Scaling{}, err
	}
	return s.getScaling(r)
}
