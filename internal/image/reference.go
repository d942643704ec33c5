package image

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"vortex"
)

// reference is a parsed image name. Its canonical form spells the registry, the repository and the tag or digest out.
type reference struct{ name.Reference }

// parseReference reads what users write: "nginx", "nginx:1.27", "ghcr.io/a/b@sha256:…", "localhost:5000/x".
func parseReference(s string) (reference, error) {
	if s == "" {
		return reference{}, vortex.Errorf(vortex.Invalid, "the image name is empty: write something like nginx:1.27")
	}
	ref, err := name.ParseReference(s)
	if err != nil || s[0] == '-' || s[0] == '.' {
		return reference{}, vortex.Errorf(vortex.Invalid, "image name %q is not valid: write [REGISTRY/]NAME[:TAG] or NAME@sha256:DIGEST in lower case", s)
	}
	return reference{ref}, nil
}

// parseTag reads a name that images can be given: not a digest.
func parseTag(s string) (reference, error) {
	ref, err := parseReference(s)
	if err != nil {
		return ref, err
	}
	if _, ok := ref.digest(); ok {
		return ref, vortex.Errorf(vortex.Invalid, "image name %q holds a digest, which follows from the content: give a name and a tag", s)
	}
	return ref, nil
}

// canonical is the name under which the image is kept.
func (r reference) canonical() string { return r.Name() }

// digest returns the digest that the name fixes, if it does.
func (r reference) digest() (v1.Hash, bool) {
	d, ok := r.Reference.(name.Digest)
	if !ok {
		return v1.Hash{}, false
	}
	h, err := v1.NewHash(d.DigestStr())
	return h, err == nil
}

// String is the name as users write it.
func (r reference) String() string { return familiar(r.Name()) }

// registry is the registry's name as users know it.
func (r reference) registry() string { return registryName(r.Context().RegistryStr()) }

func registryName(host string) string {
	if host == name.DefaultRegistry {
		return "docker.io"
	}
	return host
}

// familiar shortens a canonical name the way users write it.
func familiar(canonical string) string {
	if rest, ok := strings.CutPrefix(canonical, name.DefaultRegistry+"/library/"); ok {
		return rest
	}
	return strings.TrimPrefix(canonical, name.DefaultRegistry+"/")
}

// parsePlatform reads "os/arch[/variant]".
func parsePlatform(s string) (v1.Platform, error) {
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, vortex.Errorf(vortex.Invalid, "platform %q is not valid: write it like linux/amd64 or linux/arm64/v8", s)
	}
	return *p, nil
}

// choose returns the entry of a multi-platform index that suits want best.
func choose(entries []v1.Descriptor, want v1.Platform) (v1.Descriptor, bool) {
	best, rank := v1.Descriptor{}, 0
	for _, entry := range entries {
		if r := suitability(entry, want); r > rank {
			best, rank = entry, r
		}
	}
	return best, rank > 0
}

// suitability is 0 when an entry cannot serve want, and larger the better it does.
func suitability(entry v1.Descriptor, want v1.Platform) int {
	p := entry.Platform
	switch {
	case p == nil:
		return 1 // an index that names no platforms has one image for all
	case p.OS != want.OS || p.Architecture != want.Architecture:
		return 0
	case p.Variant == want.Variant:
		return 4
	case p.Variant == "" || want.Variant == "" && p.Architecture == "arm64":
		return 3
	case want.Variant == "" && p.Variant == "v1":
		return 3
	case want.Variant == "" && p.Architecture == "arm":
		return 2
	default:
		return 0
	}
}

// platforms lists what an index offers, for error messages.
func platforms(entries []v1.Descriptor) string {
	var names []string
	for _, entry := range entries {
		if entry.Platform != nil && entry.Platform.OS != "unknown" {
			names = append(names, entry.Platform.String())
		}
	}
	return strings.Join(names, ", ")
}
