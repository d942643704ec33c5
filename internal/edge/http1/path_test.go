package http1

import "testing"

func TestCleanPath(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"/":                 "/",
		"/a/b?c/../d":       "/a/b?c/../d",
		"/a/../b":           "/b",
		"/a/..":             "/",
		"/a/./b/.":          "/a/b/",
		"/a//../b":          "/a/b",
		"/%2e/a/%2E%2e/b?x": "/b?x",
		"/...":              "/...",
		"/a%2fb":            "/a%2fb",
		"/a;x=1/b":          "/a;x=1/b",
		"/..":               "",
		"/a/../..":          "",
		"/..;/a":            "",
		"/a/..%2f":          "",
		"/a%5c..":           "",
		`/a\..\b`:           "",
		"/%":                "",
		"/%4":               "",
		"/%g0":              "",
		"/%00":              "",
	} {
		r := request{target: []byte(target)}
		err := r.cleanPath()
		if want == "" && err == nil || want != "" && (err != nil || string(r.target) != want) {
			t.Errorf("%s became %s, %v; want %q", target, r.target, err, want)
		}
	}
}
