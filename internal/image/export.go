package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Export writes a local image as an archive that `docker load` and Import read. NotFound when it is not here.
func (s *Store) Export(ctx context.Context, ref string, w io.Writer) error {
	r, img, err := s.find(ref)
	if err != nil {
		return err
	}
	defer s.pinImage(img)()
	out := tar.NewWriter(w)
	config, err := s.readDocument(img.manifest.Config.Digest)
	if err != nil {
		return err
	}
	entry := dockerEntry{Config: img.manifest.Config.Digest.Hex + ".json", Layers: []string{}, RepoTags: []string{}}
	if parsed, err := parseTag(familiar(r.Name)); err == nil {
		entry.RepoTags = append(entry.RepoTags, parsed.String())
	}
	if err := writeEntry(out, entry.Config, config); err != nil {
		return err
	}
	written := map[string]bool{}
	for layer := range img.layers {
		name := layer.Digest.Hex + ".tar"
		entry.Layers = append(entry.Layers, name)
		if written[name] {
			continue
		}
		written[name] = true
		if err := s.exportLayer(ctx, out, name, layer); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal([]dockerEntry{entry})
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := writeEntry(out, "manifest.json", manifest); err != nil {
		return err
	}
	return out.Close()
}

// exportLayer writes a layer as it is, but for zstd, which older Docker Engines cannot read.
func (s *Store) exportLayer(ctx context.Context, out *tar.Writer, name string, layer v1.Descriptor) error {
	f, err := os.Open(s.blobPath(layer.Digest))
	if err != nil {
		return fmt.Errorf("export layer: %w", err)
	}
	defer f.Close()
	size := layer.Size
	if mediaType, _ := compression(f); mediaType == types.OCILayerZStd {
		plain, err := s.spoolStream(ctx, f)
		if err != nil {
			return err
		}
		defer discard(plain)
		info, err := plain.Stat()
		if err != nil {
			return fmt.Errorf("export layer: %w", err)
		}
		f, size = plain, info.Size()
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size, ModTime: epoch}); err != nil {
		return fmt.Errorf("export layer: %w", err)
	}
	if _, err := copyContext(ctx, out, f); err != nil {
		return fmt.Errorf("export layer: %w", err)
	}
	return nil
}

func writeEntry(out *tar.Writer, name string, content []byte) error {
	err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: int64(len(content)), ModTime: epoch})
	if err == nil {
		_, err = out.Write(content)
	}
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
