package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"vortex"
)

// unpackInto unpacks layers as an overlay tree or flattened, into dir.
func unpackInto(tb testing.TB, dir string, limits Limits, overlay bool, layers ...[]byte) error {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer root.Close()
	u := newUnpacker(root, limits, os.Geteuid() == 0)
	u.overlay = overlay
	for _, layer := range layers {
		if err := u.apply(context.Background(), bytes.NewReader(layer)); err != nil {
			return err
		}
	}
	return nil
}

var plenty = Limits{Bytes: 1 << 30, Entries: 1 << 20}

// TestHostileLayers tries every way out of the tree. Beside the tree lies a directory that must stay as it is.
func TestHostileLayers(t *testing.T) {
	big := strings.Repeat("x", 300)
	cases := map[string]func(outside string) []file{
		"parent name":      func(string) []file { return []file{regular("../outside/evil", "x")} },
		"deep parent name": func(string) []file { return []file{regular("a/b/../../../outside/evil", "x")} },
		"parent directory": func(string) []file { return []file{directory("../outside/evil")} },
		"absolute symlink": func(o string) []file { return []file{link(tar.TypeSymlink, "l", o), regular("l/evil", "x")} },
		"relative symlink": func(string) []file { return []file{link(tar.TypeSymlink, "l", "../outside"), regular("l/evil", "x")} },
		"symlink to symlink": func(o string) []file {
			return []file{link(tar.TypeSymlink, "m", o), link(tar.TypeSymlink, "l", "m"), regular("l/evil", "x")}
		},
		"symlink then dir": func(o string) []file { return []file{link(tar.TypeSymlink, "l", o), directory("l/evil")} },
		"symlink then link": func(o string) []file {
			return []file{regular("f", "x"), link(tar.TypeSymlink, "l", o), link(tar.TypeLink, "l/evil", "f")}
		},
		"symlink then symlink": func(o string) []file {
			return []file{link(tar.TypeSymlink, "l", o), link(tar.TypeSymlink, "l/evil", "f")}
		},
		"hardlink by parent":   func(string) []file { return []file{link(tar.TypeLink, "l", "../outside/secret")} },
		"hardlink by absolute": func(o string) []file { return []file{link(tar.TypeLink, "l", o+"/secret")} },
		"hardlink by symlink": func(o string) []file {
			return []file{link(tar.TypeSymlink, "s", o), link(tar.TypeLink, "l", "s/secret")}
		},
		"hardlink to directory": func(string) []file { return []file{directory("d"), link(tar.TypeLink, "l", "d")} },
		"whiteout by parent":    func(string) []file { return []file{regular("../outside/.wh.secret", "")} },
		"whiteout by symlink":   func(o string) []file { return []file{link(tar.TypeSymlink, "l", o), regular("l/.wh.secret", "")} },
		"opaque by symlink":     func(o string) []file { return []file{link(tar.TypeSymlink, "l", o), regular("l/.wh..wh..opq", "")} },
		"whiteout of parent":    func(string) []file { return []file{directory("d"), regular("d/.wh...", "")} },
		"whiteout of itself":    func(string) []file { return []file{directory("d"), regular("d/.wh.", "")} },
		"file as directory":     func(string) []file { return []file{regular("f", "x"), regular("f/evil", "x")} },
		"pipe as directory":     func(string) []file { return []file{link(tar.TypeFifo, "f", ""), regular("f/evil", "x")} },
		"symlink loop": func(string) []file {
			return []file{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), regular("a/evil", "x")}
		},
		"root as symlink": func(o string) []file { return []file{link(tar.TypeSymlink, ".", o), regular("evil", "x")} },
		"name too long":   func(string) []file { return []file{regular(big, "x")} },
		"unknown type":    func(string) []file { return []file{{Header: tar.Header{Typeflag: 'Z', Name: "z"}}} },
	}
	for name, files := range cases {
		for _, overlay := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/overlay=%v", name, overlay), func(t *testing.T) {
				if overlay {
					needRoot(t)
				}
				base := t.TempDir()
				tree, outside := filepath.Join(base, "tree"), filepath.Join(base, "outside")
				for _, dir := range []string{tree, outside} {
					if err := os.Mkdir(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(outside+"/secret", []byte("s"), 0o600); err != nil {
					t.Fatal(err)
				}
				before, _ := os.Stat(outside)
				err := unpackInto(t, tree, plenty, overlay, pack(t, files(outside)...))
				wantKind(t, err, vortex.Invalid)
				entries, _ := os.ReadDir(outside)
				if len(entries) != 1 {
					t.Errorf("outside holds %v", entries)
				}
				wantContent(t, outside+"/secret", "s")
				after, _ := os.Stat(outside)
				if before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
					t.Errorf("outside changed from %v to %v", before, after)
				}
				var st unix.Stat_t
				if unix.Stat(outside+"/secret", &st) == nil && st.Nlink != 1 {
					t.Errorf("secret has %d links", st.Nlink)
				}
			})
		}
	}
}

// TestHarmlessOddities are what real images contain and must unpack.
func TestHarmlessOddities(t *testing.T) {
	dir := t.TempDir()
	err := unpackInto(t, dir, plenty, false, pack(t,
		regular("/abs/file", "absolute"),
		regular("./dot/file", "dotted"),
		directory("usr/lib"), link(tar.TypeSymlink, "lib", "usr/lib"), regular("lib/so", "through a link"),
		link(tar.TypeSymlink, "etc/mtab", "/proc/mounts"), link(tar.TypeSymlink, "up", "../../.."),
		regular("twice", "first"), regular("twice", "second"),
		regular("was-file", "x"), directory("was-file"), regular("was-file/in", "dir now"),
		directory("was-dir"), regular("was-dir/in", "x"), regular("was-dir", "file now"),
		file{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3}},
		regular(".wh..wh.plnk", ""),
	))
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, dir+"/abs/file", "absolute")
	wantContent(t, dir+"/dot/file", "dotted")
	wantContent(t, dir+"/usr/lib/so", "through a link")
	wantContent(t, dir+"/twice", "second")
	wantContent(t, dir+"/was-file/in", "dir now")
	wantContent(t, dir+"/was-dir", "file now")
	wantAbsent(t, dir+"/dev/null")
	if target, err := os.Readlink(dir + "/etc/mtab"); target != "/proc/mounts" {
		t.Errorf("mtab -> %q, %v", target, err)
	}
}

func TestMetadata(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	stamp := time.Unix(1_000_000_000, 0)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	err := unpackInto(t, dir, plenty, true, pack(t,
		file{tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o1750, Uid: 7, Gid: 8, ModTime: stamp}, ""},
		file{tar.Header{Typeflag: tar.TypeReg, Name: "d/suid", Mode: 0o4755, Uid: 5, Gid: 6, ModTime: stamp, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.security.capability": capability,
			"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y",
		}}, "x"},
		file{tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "d", Uid: 9, Gid: 10, ModTime: stamp}, ""},
		link(tar.TypeLink, "hard", "d/suid"),
		regular("implicit/parent/file", "x"), regular("tmp/file", "x"),
	))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, mode, uid, gid uint32, links uint64) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+name, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != mode || st.Uid != uid || st.Gid != gid || links > 0 && st.Nlink != links {
			t.Errorf("%s: mode %o uid %d gid %d links %d", name, st.Mode&0o7777, st.Uid, st.Gid, st.Nlink)
		}
		if mode != 0o755 && mode != 0o1777 && st.Mtim.Sec != stamp.Unix() {
			t.Errorf("%s: mtime %v", name, st.Mtim)
		}
	}
	check("d", 0o1750, 7, 8, 0)
	check("d/suid", 0o4755, 5, 6, 2)
	check("hard", 0o4755, 5, 6, 2)
	check("s", 0o777, 9, 10, 1)
	check("implicit/parent", 0o755, 0, 0, 0)
	check("tmp", 0o1777, 0, 0, 0)
	for attr, want := range map[string]string{
		"user.note": "hi", "security.capability": capability, "trusted.overlay.redirect": "", "trusted.overlay.opaque": "", "user.overlay.opaque": "",
	} {
		value := make([]byte, 64)
		n, err := unix.Getxattr(dir+"/d/suid", attr, value)
		if want == "" && !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s is set", attr)
		} else if want != "" && (err != nil || string(value[:n]) != want) {
			t.Errorf("%s = %q, %v", attr, value[:max(n, 0)], err)
		}
	}
}

func TestBombs(t *testing.T) {
	cases := map[string]struct {
		limits Limits
		files  []file
	}{
		"bytes":   {Limits{Bytes: 1000, Entries: 100}, []file{regular("a", strings.Repeat("x", 600)), regular("b", strings.Repeat("x", 600))}},
		"entries": {Limits{Bytes: 1 << 20, Entries: 2}, []file{regular("a", ""), regular("b", ""), regular("c", "")}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			wantKind(t, unpackInto(t, t.TempDir(), c.limits, false, pack(t, c.files...)), vortex.Exhausted)
		})
	}
	t.Run("store", func(t *testing.T) {
		ref := startRegistry(t) + "/bomb:1"
		publish(t, ref, imageOf(t, []file{regular("zeros", strings.Repeat("\x00", 1<<20))}))
		s := openStore(t, func(c *Config) { c.Limits.Bytes = 1 << 16 })
		_, err := s.Extract(t.Context(), ref, filepath.Join(t.TempDir(), "root"))
		wantKind(t, err, vortex.Exhausted)
		if entries, _ := os.ReadDir(s.path("layers")); len(entries) != 0 {
			t.Errorf("left %v", entries)
		}
		if entries, _ := os.ReadDir(s.path("tmp")); len(entries) != 0 {
			t.Errorf("left %v", entries)
		}
	})
	t.Run("stream behind the archive", func(t *testing.T) {
		packed := append(pack(t, regular("a", "b")), make([]byte, 100<<20)...)
		s := openStore(t, func(c *Config) { c.Limits.Bytes = 1 << 20 })
		img, err := mutate.AppendLayers(imageOf(t), layerOf(t, packed))
		if err != nil {
			t.Fatal(err)
		}
		ref := startRegistry(t) + "/bomb:2"
		publish(t, ref, img)
		_, err = s.Extract(t.Context(), ref, filepath.Join(t.TempDir(), "root"))
		wantKind(t, err, vortex.Exhausted)
	})
}

func TestSparse(t *testing.T) {
	dir := t.TempDir()
	body := strings.Repeat("\x00", 8<<20) + "end"
	if err := unpackInto(t, dir, plenty, false, pack(t, regular("sparse", body))); err != nil {
		t.Fatal(err)
	}
	wantContent(t, dir+"/sparse", body)
	var st unix.Stat_t
	if err := unix.Stat(dir+"/sparse", &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("takes %d bytes on disk, %v", st.Blocks*512, err)
	}
}

func TestTruncatedLayer(t *testing.T) {
	packed := pack(t, regular("a", strings.Repeat("x", 10_000)))
	for _, cut := range []int{100, 700, 5000} {
		wantKind(t, unpackInto(t, t.TempDir(), plenty, false, packed[:cut]), vortex.Invalid)
	}
}

// whiteoutLayers delete in every way a layer can; the tree they make is the same mounted and extracted.
var whiteoutLayers = [][]file{
	{
		regular("keep", "1"), regular("gone", "1"), directory("dir"), regular("dir/a", "1"), regular("dir/b", "1"),
		directory("opaque"), regular("opaque/old", "1"), directory("opaque/sub"), regular("opaque/sub/old", "1"),
		directory("replaced"), regular("replaced/old", "1"), directory("early"), regular("early/old", "1"),
		directory("late"), regular("late/old", "1"), directory("tofile"), regular("tofile/x", "1"), regular("todir", "1"),
	},
	{
		regular(".wh.gone", ""), directory("dir"), regular("dir/.wh.a", ""),
		directory("opaque"), regular("opaque/new", "2"), regular("opaque/.wh..wh..opq", ""),
		regular(".wh.replaced", ""),
		regular(".wh.early", ""), directory("early"), regular("early/new", "2"), // the whiteout first, then the new directory
		directory("late"), regular("late/new", "2"), regular(".wh.late", ""), // and the other way round
		regular("tofile", "2"), directory("todir"), regular("todir/x", "2"),
	},
	{regular("gone", "3"), regular(".wh.never-was", ""), directory("opaque"), regular("opaque/third", "3")},
}

var whiteoutResult = map[string]string{
	"keep": "1", "gone": "3", "dir/b": "1", "opaque/new": "2", "opaque/third": "3", "early/new": "2", "late/new": "2", "tofile": "2", "todir/x": "2",
}

func checkWhiteouts(t *testing.T, root string) {
	t.Helper()
	got := map[string]string{}
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			content, _ := os.ReadFile(path)
			rel, _ := filepath.Rel(root, path)
			got[rel] = string(content)
		}
		return err
	})
	if err != nil || fmt.Sprint(got) != fmt.Sprint(whiteoutResult) {
		t.Errorf("tree = %v, %v\nwant   %v", got, err, whiteoutResult)
	}
	for _, gone := range []string{"replaced", "never-was", "opaque/sub"} {
		wantAbsent(t, filepath.Join(root, gone))
	}
}

func TestWhiteouts(t *testing.T) {
	ref := startRegistry(t) + "/whiteouts:1"
	publish(t, ref, imageOf(t, whiteoutLayers...))
	s := openStore(t)
	t.Run("extracted", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "root")
		if _, err := s.Extract(t.Context(), ref, dir); err != nil {
			t.Fatal(err)
		}
		checkWhiteouts(t, dir)
		_, err := s.Extract(t.Context(), ref, dir)
		wantKind(t, err, vortex.Exists)
		_, err = s.Extract(t.Context(), ref, dir+"/keep")
		wantKind(t, err, vortex.Exists)
		wantContent(t, dir+"/keep", "1")
	})
	t.Run("mounted", func(t *testing.T) {
		needRoot(t)
		root, _ := mount(t, s, ref, "whiteouts")
		checkWhiteouts(t, root)
	})
}

func TestManyLayers(t *testing.T) {
	needRoot(t)
	var layers [][]file
	for i := range 120 {
		layers = append(layers, []file{regular(fmt.Sprintf("f%d", i), "x"), regular("last", strconv.Itoa(i))})
	}
	layers = append(layers, layers[0]) // the same layer twice
	ref := startRegistry(t) + "/many:1"
	publish(t, ref, imageOf(t, layers...))
	s := openStoreIn(t, filepath.Join(t.TempDir(), "a:b,c")) // characters that overlay options cannot hold
	root, _ := mount(t, s, ref, "many")
	wantContent(t, root+"/f119", "x")
	wantContent(t, root+"/last", "0")
	if err := os.WriteFile(root+"/new", nil, 0o600); err != nil {
		t.Error(err)
	}
}

func TestImageWithoutLayers(t *testing.T) {
	needRoot(t)
	ref := startRegistry(t) + "/none:1"
	publish(t, ref, imageOf(t))
	root, _ := mount(t, openStore(t), ref, "none")
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("root holds %v, %v", entries, err)
	}
}

func TestWrongDiffID(t *testing.T) {
	img := imageOf(t, []file{regular("a", "b")})
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.RootFS.DiffIDs[0] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	ref := startRegistry(t) + "/wrong:1"
	publish(t, ref, img)
	s := openStore(t)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantKind(t, err, vortex.Invalid)
	if images, _ := s.List(); len(images) != 0 {
		t.Errorf("List = %v", images)
	}
}

// TestMutatedLayers unpacks a few thousand layers with random damage: none may reach outside or panic.
func TestMutatedLayers(t *testing.T) {
	seeds := [][]byte{
		pack(t, regular("a/b", "x"), link(tar.TypeSymlink, "l", "../outside"), regular("l/c", "x"), regular(".wh.a", ""), link(tar.TypeLink, "h", "a/b")),
		pack(t, whiteoutLayers[1]...),
	}
	random := rand.New(rand.NewPCG(1, 2))
	base := t.TempDir()
	for n := range 2000 {
		layer := bytes.Clone(seeds[n%len(seeds)])
		for range 1 + random.IntN(6) {
			at := random.IntN(len(layer)) / 512 * 512 // mostly headers, where the decisions are
			layer[at+random.IntN(160)] = byte(random.IntN(256))
		}
		fixChecksums(layer)
		tree := filepath.Join(base, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		err := unpackInto(t, tree, Limits{Bytes: 1 << 20, Entries: 100}, n%3 == 0 && os.Geteuid() == 0, layer)
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Fatalf("outside holds %v after %v", entries, err)
		}
		if err := os.RemoveAll(tree); err != nil {
			t.Fatal(err)
		}
	}
}

// fixChecksums makes damaged tar headers acceptable again.
func fixChecksums(layer []byte) {
	for at := 0; at+512 <= len(layer); at += 512 {
		header := layer[at : at+512]
		if string(header[257:262]) != "ustar" {
			continue
		}
		copy(header[148:156], "        ")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, regular("a/b", "x"), link(tar.TypeSymlink, "l", "/etc"), regular(".wh.a", "")))
	f.Add(pack(f, whiteoutLayers[1]...))
	f.Fuzz(func(t *testing.T, layer []byte) {
		base := t.TempDir()
		tree := filepath.Join(base, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		err := unpackInto(t, tree, Limits{Bytes: 1 << 20, Entries: 100}, false, layer)
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Errorf("outside holds %v after %v", entries, err)
		}
	})
}
