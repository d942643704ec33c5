package api

import (
	"encoding/json"
	"mime"
	"net/http"
	"sync"

	"vortex"
	"vortex/client"
)

func (s *Server) images() (Images, error) {
	if s.Images == nil {
		return nil, withCode(client.CodeRuntime, vortex.Errorf(vortex.Unavailable, "this server keeps no images; ask one that has an agent"))
	}
	return s.Images, nil
}

func (s *Server) listImages(r *http.Request) (client.ImageList, error) {
	images, err := s.images()
	if err != nil {
		return client.ImageList{}, err
	}
	list, err := images.List(r.Context())
	if list == nil {
		list = []client.Image{}
	}
	return client.ImageList{Images: list, Total: len(list)}, err
}

func (s *Server) removeImage(r *http.Request) (client.ImageList, error) {
	images, err := s.images()
	if err != nil {
		return client.ImageList{}, err
	}
	forced, err := flag(r.URL.Query().Get("force"), "force")
	if err != nil {
		return client.ImageList{}, err
	}
	if err := images.Remove(r.Context(), r.PathValue("reference"), forced); err != nil {
		return client.ImageList{}, err
	}
	return s.listImages(r)
}

func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) error {
	images, req, err := s.registryRequest(r)
	if err != nil {
		return err
	}
	return s.progress(w, func(report func(client.Progress)) (*client.Image, error) {
		image, err := images.Pull(r.Context(), req, report)
		return &image, err
	})
}

func (s *Server) pushImage(w http.ResponseWriter, r *http.Request) error {
	images, req, err := s.registryRequest(r)
	if err != nil {
		return err
	}
	return s.progress(w, func(report func(client.Progress)) (*client.Image, error) {
		return &client.Image{Reference: req.Reference}, images.Push(r.Context(), req, report)
	})
}

// registryRequest reads the body of a pull or a push.
func (s *Server) registryRequest(r *http.Request) (Images, client.PullRequest, error) {
	var req client.PullRequest
	images, err := s.images()
	if err != nil {
		return nil, req, err
	}
	if err := readJSON(r, &req); err != nil {
		return nil, req, err
	}
	if req.Reference == "" {
		return nil, req, vortex.Errorf(vortex.Invalid, `expected {"reference": "registry/name:tag"}, got no reference`)
	}
	return images, req, nil
}

func readJSON(r *http.Request, value any) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	return decodeStrict(data, value)
}

func (s *Server) importImage(w http.ResponseWriter, r *http.Request) error {
	images, err := s.images()
	if err != nil {
		return err
	}
	return s.progress(w, func(func(client.Progress)) (*client.Image, error) {
		image, err := images.Import(r.Context(), r.Body, r.URL.Query().Get("name"))
		return &image, err
	})
}

func (s *Server) buildImage(w http.ResponseWriter, r *http.Request) error {
	if s.Builder == nil {
		return withCode(client.CodeRuntime, vortex.Errorf(vortex.Unavailable, "this server builds no images; ask one that has an agent"))
	}
	query := r.URL.Query()
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == "application/x-tar" {
		req := client.BuildRequest{Name: query.Get("name"), Dockerfile: query.Get("dockerfile")}
		if req.Name == "" {
			return vortex.Errorf(vortex.Invalid, "expected the query parameter name, the image's name, got none")
		}
		return s.progress(w, func(report func(client.Progress)) (*client.Image, error) {
			image, err := s.Builder.BuildArchive(r.Context(), r.Body, req, report)
			return &image, err
		})
	}
	var req client.BuildRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if (req.Repo == "") == (req.Path == "") || req.Name == "" {
		return vortex.Errorf(vortex.Invalid, `expected {"name": …} with either "repo" or "path"; got name %q, repo %q, path %q`, req.Name, req.Repo, req.Path)
	}
	return s.progress(w, func(report func(client.Progress)) (*client.Image, error) {
		image, err := s.Builder.Build(r.Context(), req, report)
		return &image, err
	})
}

// progress answers one JSON object a line while work goes on; the last one holds its result.
func (s *Server) progress(w http.ResponseWriter, work func(report func(client.Progress)) (*client.Image, error)) error {
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("Cache-Control", "no-store")
	var mu sync.Mutex
	flush := http.NewResponseController(w)
	report := func(p client.Progress) {
		data, err := json.Marshal(p)
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		_, _ = w.Write(append(data, '\n'))
		_ = flush.Flush()
	}
	_ = flush.EnableFullDuplex()
	image, err := work(report)
	if err != nil {
		body, status := s.body(err)
		report(client.Progress{Error: &body, Status: status})
		return nil
	}
	report(client.Progress{Image: image})
	return nil
}
