package docker

import (
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"vortex/internal/runtime"
)

// statusOf says what the engine knows of a container in the driver's words.
func statusOf(c container.InspectResponse) runtime.Status {
	s := runtime.Status{
		ID:     strings.TrimPrefix(c.Name, "/"+namePrefix),
		State:  stateOf(c.State),
		Labels: specLabels(c.Config.Labels),
	}
	if port, err := strconv.ParseUint(c.Config.Labels[labelPort], 10, 16); err == nil {
		s.Port = uint16(port)
	}
	switch s.State {
	case runtime.Created:
		s.Reason = c.State.Error
	case runtime.Running:
		s.StartedAt, s.PID, s.Address = parseTime(c.State.StartedAt), c.State.Pid, addressOf(c)
	default:
		s.StartedAt, s.FinishedAt = parseTime(c.State.StartedAt), parseTime(c.State.FinishedAt)
		if !s.FinishedAt.IsZero() && s.FinishedAt.Before(s.StartedAt) {
			s.StartedAt = s.FinishedAt // the engine notes the start of a short life after its end
		}
		s.ExitCode, s.OOMKilled = c.State.ExitCode, c.State.OOMKilled
		s.Reason = exitReason(c.State)
	}
	return s
}

// statusOfEvent says what the event of an exit tells. The engine puts the container's labels and name into it.
func statusOfEvent(m events.Message) runtime.Status {
	s := runtime.Status{
		ID:         strings.TrimPrefix(m.Actor.Attributes["name"], namePrefix),
		State:      runtime.Exited,
		FinishedAt: time.Unix(0, m.TimeNano).UTC(),
		ExitCode:   -1,
		Reason:     "removed from the Docker Engine by somebody else",
		Labels:     specLabels(m.Actor.Attributes),
	}
	if code, err := strconv.Atoi(m.Actor.Attributes["exitCode"]); err == nil {
		s.ExitCode = code
	}
	if port, err := strconv.ParseUint(m.Actor.Attributes[labelPort], 10, 16); err == nil {
		s.Port = uint16(port)
	}
	return s
}

// stateOf maps the engine's states: a paused container still exists with its processes, a dead one does not.
func stateOf(s *container.State) runtime.State {
	switch {
	case running(s):
		return runtime.Running
	case s.Status == container.StateCreated:
		return runtime.Created
	default:
		return runtime.Exited
	}
}

func running(s *container.State) bool {
	return s != nil && (s.Running || s.Paused || s.Restarting) && !s.Dead
}

const (
	sigkill   = 137 // the exit code of a process that SIGKILL ended
	reasonOOM = "out of memory: killed at its memory limit"
)

func exitReason(s *container.State) string {
	switch {
	case s.OOMKilled:
		return reasonOOM
	case s.Error != "":
		return s.Error
	case s.ExitCode == sigkill:
		return "killed"
	case s.ExitCode != 0:
		return "exited with code " + strconv.Itoa(s.ExitCode)
	default:
		return "exited"
	}
}

// addressOf is the container's address in the first of its networks that gives one.
func addressOf(c container.InspectResponse) string {
	if c.NetworkSettings == nil {
		return ""
	}
	for _, n := range c.NetworkSettings.Networks {
		if n != nil && n.IPAddress.IsValid() {
			return n.IPAddress.String()
		}
	}
	return ""
}

// parseTime reads the engine's times, in which the year 1 stands for none.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}
