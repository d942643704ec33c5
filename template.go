package vortex

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
)

// template is what of an app an instance is made from: when it changes, instances are replaced.
type template struct {
	Spec        AppSpec      `json:"spec"`
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	Image       string       `json:"image,omitempty"`
	RestartedAt time.Time    `json:"restartedAt,omitzero"`
}

// TemplateHash returns 16 hexadecimal digits that change exactly when instances must be replaced: with spec,
// healthCheck, the image that was built (image, "" when spec.image is used as it is) and the time of the last
// restart a user asked for. Scaling, route, rollout and metadata do not count, and a default that is written out is
// the same as one that is left out.
func (a *App) TemplateHash(image string, restartedAt time.Time) string {
	t := template{Spec: a.Spec, Image: image, RestartedAt: restartedAt.Round(0).UTC()}
	t.Spec.Ports = slices.Clone(t.Spec.Ports)
	t.Spec.DependsOn = slices.Clone(t.Spec.DependsOn)
	t.Spec.SetDefaults()
	if a.HealthCheck != nil {
		check := *a.HealthCheck
		check.SetDefaults()
		t.HealthCheck = &check
	}
	data, err := json.Marshal(t)
	if err != nil {
		panic("vortex: encode a template: " + err.Error()) // only NaN and infinity cannot be encoded; Validate refuses them
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
