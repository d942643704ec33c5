package vortex

const maxReplicas = 100_000 // of one app, to catch slips of the finger

func (c *checker) scaling(s *Scaling) {
	oneOf(c, "scaling.mode", s.Mode)
	if s.Replicas != nil && s.Mode != ScalingModeManual {
		c.add("scaling.replicas", "expected mode: manual with a fixed number of replicas, got mode: auto; "+
			"set mode: manual, or use minReplicas and maxReplicas")
	}
	c.replicas("scaling.replicas", s.Replicas)
	c.replicas("scaling.minReplicas", s.MinReplicas)
	c.replicas("scaling.maxReplicas", s.MaxReplicas)
	if s.MaxReplicas != nil && *s.MaxReplicas == 0 {
		c.add("scaling.maxReplicas", "expected at least 1, got 0; stop the app to run none of it")
	} else if s.MinReplicas != nil && s.MaxReplicas != nil && *s.MinReplicas > *s.MaxReplicas {
		c.add("scaling.maxReplicas", "expected at least minReplicas, which is %d, got %d", *s.MinReplicas, *s.MaxReplicas)
	}
	c.positive("scaling.targetRPSPerReplica", s.TargetRPSPerReplica)
	c.positive("scaling.maxP95LatencyMs", s.MaxP95LatencyMs)
	c.percent("scaling.maxCPUPercent", s.MaxCPUPercent)
	c.percent("scaling.maxMemoryPercent", s.MaxMemoryPercent)
	if s.MaxConnPerReplica != nil && *s.MaxConnPerReplica == 0 {
		c.add("scaling.maxConnPerReplica", "expected at least 1, got 0; leave it out for no limit")
	}
	c.percent("scaling.scaleOutThresholdPct", s.ScaleOutThresholdPct)
	c.percent("scaling.scaleInThresholdPct", s.ScaleInThresholdPct)
	if out, in := s.ScaleOutThresholdPct, s.ScaleInThresholdPct; out != nil && in != nil && *in >= *out {
		c.add("scaling.scaleInThresholdPct", "expected less than scaleOutThresholdPct, which is %v, got %v", *out, *in)
	}
	c.seconds("scaling.windowSeconds", s.WindowSeconds)
	c.seconds("scaling.cooldownSeconds", s.CooldownSeconds)
	c.seconds("scaling.stabilizationWindowSeconds", s.StabilizationWindowSeconds)
}

func (c *checker) replicas(at string, n *uint32) {
	if n != nil && *n > maxReplicas {
		c.add(at, "expected at most %d, got %d", maxReplicas, *n)
	}
}

func (c *checker) seconds(at string, n *uint32) {
	if n != nil && *n > maxSeconds {
		c.add(at, "expected at most %d (a day), got %d", maxSeconds, *n)
	}
}

// positive refuses 0, negative numbers, infinity and what is no number.
func (c *checker) positive(at string, n *float64) {
	if n != nil && !(*n > 0 && *n <= 1e12) {
		c.add(at, "expected a number above 0, got %v", *n)
	}
}

func (c *checker) percent(at string, n *float64) {
	if n != nil && !(*n >= 1 && *n <= 100) {
		c.add(at, "expected a percentage from 1 to 100, got %v", *n)
	}
}

func (c *checker) rollout(r *RolloutPolicy) {
	if oneOf(c, "rollout.strategy", r.Strategy) && (r.Strategy == RolloutStrategyCanary || r.Strategy == RolloutStrategyBlueGreen) {
		c.add("rollout.strategy", "%s is not supported by this version yet; expected rolling or recreate", r.Strategy)
	}
	c.replicas("rollout.maxSurge", r.MaxSurge)
	c.replicas("rollout.maxUnavailable", r.MaxUnavailable)
	if r.MaxSurge != nil && *r.MaxSurge == 0 && r.MaxUnavailable != nil && *r.MaxUnavailable == 0 {
		c.add("rollout.maxUnavailable", "expected maxSurge or maxUnavailable to be at least 1, got 0 for both: nothing could be replaced")
	}
}
