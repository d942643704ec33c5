package api

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
	"vortex/internal/settings"
)

func (s *Server) listNodes(*http.Request) (client.NodeList, error) {
	list := client.NodeList{Nodes: []client.Node{}}
	s.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Nodes) {
			list.Nodes = append(list.Nodes, node(v, e.Value))
		}
	})
	for _, n := range list.Nodes {
		if n.State == string(vortex.LivenessStateReady) {
			list.Ready++
		}
	}
	list.Total = len(list.Nodes)
	return list, nil
}

// node is a node with what is promised to the instances placed there.
func node(v kind.View, rec *vortex.NodeRecord) client.Node {
	n := client.Node{
		ID: rec.ID, Name: rec.Name, Address: rec.Address, State: "Unknown", Schedulable: !deref(rec.Unschedulable),
		CPUMillis: rec.CPUMillis, MemoryBytes: rec.MemoryBytes, Labels: rec.Labels, Drivers: rec.Drivers,
		OS: rec.OS, Arch: rec.Arch, Kernel: rec.Kernel, Version: rec.Version, StartedAt: timeOrNull(rec.StartedAt),
		MaxInstances: deref(rec.MaxInstances), Unschedulable: deref(rec.Unschedulable),
	}
	if live, ok := kind.Lookup(v, vortex.Liveness, rec.ID); ok {
		n.State, n.Reason, n.StateSince = string(live.Value.State), live.Value.Reason, timeOrNull(live.Value.Since)
	}
	if cordon, ok := kind.Lookup(v, vortex.Cordons, rec.ID); ok {
		n.Schedulable, n.Cordoned, n.CordonReason = false, true, cordon.Value.Reason
		if deref(cordon.Value.Drain) && n.State == string(vortex.LivenessStateReady) {
			n.State, n.StateSince = string(vortex.LivenessStateDraining), timeOrNull(cordon.Value.Since)
		}
	}
	if given, ok := kind.Lookup(v, vortex.NodeLabels, rec.ID); ok { // its agent takes them over in a moment
		n.Labels = vortex.OverLabels(rec.Labels, given.Value.Labels)
	}
	for _, p := range kind.Find(v, vortex.Placements, "node", rec.ID) {
		if over(v, p.ID) {
			continue
		}
		n.CPUUsed += deref(p.Value.CPUMillis)
		n.MemoryUsed += deref(p.Value.MemoryBytes)
		n.Instances++
	}
	return n
}

// over reports whether an instance is kept for its logs only, and takes no room.
func over(v kind.View, id string) bool {
	c, ok := kind.Lookup(v, vortex.Containers, id)
	if !ok || c.Value.Status != vortex.ContainerStatusDead {
		return false
	}
	wanted, ok := kind.Lookup(v, vortex.Instances, id)
	return !ok || wanted.Value.Wanted == vortex.WantedStateStopped
}

func (s *Server) getMetrics(r *http.Request) (client.ClusterMetrics, error) {
	m := client.ClusterMetrics{PerApp: map[string]client.AppMetrics{}}
	for _, app := range s.apps(r.Context()).Apps {
		m.Apps++
		m.Instances += app.Replicas.Current
		m.Healthy += app.Replicas.Healthy
		m.RPS += app.Metrics.RPS
		m.PerApp[app.Name] = app.Metrics
	}
	m.Nodes = len(kind.All(s.Store, vortex.Nodes))
	return m, nil
}

func (s *Server) getCluster(r *http.Request) (client.Cluster, error) {
	nodes, _ := s.listNodes(r)
	c := client.Cluster{
		Servers: []client.Server{}, Members: []client.Member{}, Revision: s.Store.Revision(), Stale: s.Store.Stale(),
		Nodes: nodes.Total, Ready: nodes.Ready, Version: s.Version,
	}
	s.Store.View(func(v kind.View) {
		if lock, ok := kind.Lookup(v, vortex.LeaderLocks, "leader"); ok {
			c.Leader = &client.Leader{ID: lock.Value.ID, Epoch: lock.Value.Epoch, Address: lock.Value.Address}
		}
		c.Servers, c.Members = servers(v, c.Leader), s.members(v)
	})
	return c, nil
}

// servers lists the servers that have told of themselves, and the leader.
func servers(v kind.View, leader *client.Leader) []client.Server {
	list := []client.Server{}
	for _, e := range kind.List(v, vortex.Servers) {
		one := client.Server{ID: e.Value.Name, Address: e.Value.API, Zone: e.Value.Zone, Version: e.Value.Version, State: stateOf(v, e.Value.Name)}
		if m, ok := kind.Lookup(v, vortex.Members, e.Value.Name); ok {
			one.Member = string(m.Value.Role)
		}
		list = append(list, one)
	}
	if leader == nil {
		return list
	}
	for i := range list {
		if list[i].ID == leader.ID {
			list[i].Leader = true
			return list
		}
	}
	return append(list, client.Server{ID: leader.ID, Address: leader.Address, Leader: true})
}

// members lists who keeps the store.
func (s *Server) members(v kind.View) []client.Member {
	list, leader := []client.Member{}, ""
	if s.StoreLeader != nil {
		leader = s.StoreLeader()
	}
	for _, e := range kind.List(v, vortex.Members) {
		one := client.Member{
			Name: e.Value.Name, ID: e.Value.ID, Role: string(e.Value.Role), Leader: leader != "" && e.Value.ID == leader,
			Address: e.Value.Address, State: stateOf(v, e.Value.Name), Since: e.Value.Since, Why: e.Value.Why,
		}
		if rec, ok := kind.Lookup(v, vortex.Servers, e.Value.Name); ok && rec.Value.Behind != nil {
			one.Behind = *rec.Value.Behind
		}
		list = append(list, one)
	}
	return list
}

// stateOf is what the node monitor says of a machine, "" where it watches none of that name.
func stateOf(v kind.View, name string) string {
	live, ok := kind.Lookup(v, vortex.Liveness, name)
	if !ok {
		return ""
	}
	return string(live.Value.State)
}

const defaultEvents = 200

func (s *Server) getEvents(r *http.Request) (client.EventList, error) {
	return s.events(r, r.URL.Query().Get("app"))
}

// events returns the newest events of an app, or of all.
func (s *Server) events(r *http.Request, app string) (client.EventList, error) {
	limit, err := count(r.URL.Query().Get("limit"), "limit", defaultEvents)
	if err != nil {
		return client.EventList{}, err
	}
	list := client.EventList{Events: []client.Event{}}
	s.Store.View(func(v kind.View) {
		entries := kind.List(v, vortex.Events)
		if app != "" {
			entries = kind.Find(v, vortex.Events, "client_id", app)
		}
		slices.SortStableFunc(entries, func(a, b kind.Entry[vortex.EventRecord]) int { return a.Value.At.Compare(b.Value.At) })
		list.Total = len(entries)
		if limit > 0 && len(entries) > limit {
			entries = entries[len(entries)-limit:]
		}
		for _, e := range entries {
			list.Events = append(list.Events, eventOf(e.Value))
		}
	})
	return list, nil
}

func eventOf(rec *vortex.EventRecord) client.Event {
	return client.Event{
		ID: rec.ID, At: rec.At, Severity: string(cmp.Or(rec.Severity, vortex.SeverityInfo)), Component: rec.Component, Type: rec.Type, Message: rec.Message,
		App: rec.ClientID, Instance: rec.Instance, Node: rec.Node, Cause: rec.Cause,
	}
}

// count reads a query parameter that is a whole number from 0.
func count(text, name string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0, vortex.Errorf(vortex.Invalid, "%s: expected a whole number from 0, got %q", name, text)
	}
	return n, nil
}

// settings are those in the store over the defaults.
func (s *Server) settings() settings.Settings {
	entry, err := kind.Get(s.Store, vortex.Settings, settings.ID)
	if err != nil {
		return s.Defaults
	}
	return s.Defaults.With(entry.Value)
}

// overlay sets in base what over says.
func overlay(base, over *vortex.ClusterSettings) {
	base.MinReplicas = cmp.Or(over.MinReplicas, base.MinReplicas)
	base.MaxReplicas = cmp.Or(over.MaxReplicas, base.MaxReplicas)
	base.StartingPort = cmp.Or(over.StartingPort, base.StartingPort)
	base.Scaleupnumber = cmp.Or(over.Scaleupnumber, base.Scaleupnumber)
	base.Scaledownnumber = cmp.Or(over.Scaledownnumber, base.Scaledownnumber)
	base.ScaleUpGracePeriod = cmp.Or(over.ScaleUpGracePeriod, base.ScaleUpGracePeriod)
	base.ScaleDownCooldown = cmp.Or(over.ScaleDownCooldown, base.ScaleDownCooldown)
	base.Ratelimit = cmp.Or(over.Ratelimit, base.Ratelimit)
	base.Ratewindow = cmp.Or(over.Ratewindow, base.Ratewindow)
	base.HistoryAge = cmp.Or(over.HistoryAge, base.HistoryAge)
	base.HistoryCount = cmp.Or(over.HistoryCount, base.HistoryCount)
	base.HistoryMax = cmp.Or(over.HistoryMax, base.HistoryMax)
}

func (s *Server) getConfig(*http.Request) (client.Config, error) {
	return s.config(), nil
}

// putConfig changes settings at run time. They are stored and win over vortex.yaml from then on.
func (s *Server) putConfig(r *http.Request, in client.Config) (client.Config, error) {
	err := s.retry(r.Context(), func() error {
		var stored vortex.ClusterSettings
		var revision int64
		if entry, err := kind.Get(s.Store, vortex.Settings, settings.ID); err == nil {
			stored, revision = *entry.Value, entry.ModRevision
		}
		wish := settingsOf(in)
		overlay(&stored, &wish)
		if err := checkSettings(s.Defaults.With(&stored)); err != nil {
			return err
		}
		return s.putSettings(r.Context(), stored, revision)
	})
	if err != nil {
		return client.Config{}, err
	}
	return s.config(), nil
}

func (s *Server) putSettings(ctx context.Context, set vortex.ClusterSettings, revision int64) error {
	put, err := kind.PutOp(vortex.Settings, &set, settings.ID)
	if err != nil {
		return err
	}
	_, err = s.Store.Commit(ctx, kind.Txn{If: []kind.Condition{kind.IfRevision(put.Key, revision)}, Ops: []kind.Op{put}})
	return err
}

// checkSettings refuses settings that contradict themselves.
func checkSettings(set settings.Settings) error {
	switch {
	case set.MaxReplicas == 0:
		return vortex.Errorf(vortex.Invalid, "cluster.max_replicas: expected a number from 1, got 0")
	case set.MinReplicas > set.MaxReplicas:
		return vortex.Errorf(vortex.Invalid, "cluster.min_replicas (%d) is more than cluster.max_replicas (%d)", set.MinReplicas, set.MaxReplicas)
	case set.UpGrace < 0, set.DownCooldown < 0, set.HistoryAge < 0:
		return vortex.Errorf(vortex.Invalid, "settings: a period cannot be negative")
	case set.HistoryMax != 0 && set.HistoryMax < set.HistoryCount:
		return vortex.Errorf(vortex.Invalid, "store.history_max (%d) is less than store.history_count (%d)", set.HistoryMax, set.HistoryCount)
	case set.RateLimit == 0:
		return vortex.Errorf(vortex.Invalid, "ratelimiter.ratelimit: expected a number from 1, got 0: it would refuse every request")
	case set.RateWindow < 0:
		return vortex.Errorf(vortex.Invalid, "ratelimiter.ratewindow: expected a duration such as 15s, got %s", set.RateWindow)
	default:
		return nil
	}
}

func (s *Server) config() client.Config {
	set := s.settings()
	return client.Config{
		Cluster: client.ClusterConfig{MinReplicas: &set.MinReplicas, MaxReplicas: &set.MaxReplicas, StartingPort: &set.StartingPort},
		Settings: client.ScalingConfig{
			ScaleUpNumber: &set.StepUp, ScaleDownNumber: &set.StepDown,
			ScaleUpGracePeriod: vortex.Duration(set.UpGrace), ScaleDownCooldown: vortex.Duration(set.DownCooldown),
		},
		RateLimiter: client.RateLimitConfig{RateLimit: &set.RateLimit, RateWindow: vortex.Duration(set.RateWindow)},
		Store: client.HistoryConfig{
			HistoryAge: vortex.Duration(set.HistoryAge), HistoryCount: &set.HistoryCount, HistoryMax: &set.HistoryMax,
		},
	}
}

func settingsOf(c client.Config) vortex.ClusterSettings {
	return vortex.ClusterSettings{
		MinReplicas: c.Cluster.MinReplicas, MaxReplicas: c.Cluster.MaxReplicas, StartingPort: c.Cluster.StartingPort,
		Scaleupnumber: c.Settings.ScaleUpNumber, Scaledownnumber: c.Settings.ScaleDownNumber,
		ScaleUpGracePeriod: c.Settings.ScaleUpGracePeriod, ScaleDownCooldown: c.Settings.ScaleDownCooldown,
		Ratelimit: c.RateLimiter.RateLimit, Ratewindow: c.RateLimiter.RateWindow,
		HistoryAge: c.Store.HistoryAge, HistoryCount: c.Store.HistoryCount, HistoryMax: c.Store.HistoryMax,
	}
}
