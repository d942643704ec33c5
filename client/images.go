package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"vortex"
)

// Images lists the server's local images.
func (c *Client) Images(ctx context.Context) (ImageList, error) {
	return get[ImageList](ctx, c, nil, "images")
}

// RemoveImage removes a local image, also one that is in use when forced.
func (c *Client) RemoveImage(ctx context.Context, reference string, forced bool) error {
	query := url.Values{}
	if forced {
		query.Set("force", "true")
	}
	path := "/images/" + strings.ReplaceAll(url.PathEscape(reference), "%2F", "/")
	return c.call(ctx, request{method: http.MethodDelete, path: path, query: query}, nil, nil)
}

// PullImage makes the server pull an image and reports how far it is; report may be nil.
func (c *Client) PullImage(ctx context.Context, req PullRequest, report func(Progress)) (Image, error) {
	return c.progressJSON(ctx, "/images/pull", req, report)
}

// PushImage makes the server push an image to its registry.
func (c *Client) PushImage(ctx context.Context, req PullRequest, report func(Progress)) error {
	_, err := c.progressJSON(ctx, "/images/push", req, report)
	return err
}

// ImportImage sends an archive made by docker save, or an OCI archive. name "" keeps the archive's own.
func (c *Client) ImportImage(ctx context.Context, archive io.Reader, name string, report func(Progress)) (Image, error) {
	query := url.Values{}
	if name != "" {
		query.Set("name", name)
	}
	return c.progress(ctx, request{path: "/images/import", query: query, body: archive, contentType: "application/octet-stream"}, report)
}

// BuildImage makes the server build an image of a repository or of a directory on its own machine.
func (c *Client) BuildImage(ctx context.Context, req BuildRequest, report func(Progress)) (Image, error) {
	return c.progressJSON(ctx, "/images/build", req, report)
}

// BuildImageFrom makes the server build an image of a directory sent as a tar stream.
func (c *Client) BuildImageFrom(ctx context.Context, directory io.Reader, req BuildRequest, report func(Progress)) (Image, error) {
	query := url.Values{"name": {req.Name}}
	if req.Dockerfile != "" {
		query.Set("dockerfile", req.Dockerfile)
	}
	return c.progress(ctx, request{path: "/images/build", query: query, body: directory, contentType: "application/x-tar"}, report)
}

func (c *Client) progressJSON(ctx context.Context, path string, in any, report func(Progress)) (Image, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return Image{}, fmt.Errorf("encode request: %w", err)
	}
	return c.progress(ctx, request{path: path, body: bytes.NewReader(data), contentType: "application/json"}, report)
}

// progress sends a request whose answer is a Progress a line, and returns the image the last one holds.
func (c *Client) progress(ctx context.Context, r request, report func(Progress)) (Image, error) {
	r.method = http.MethodPost
	resp, err := c.send(ctx, r)
	if err != nil {
		return Image{}, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var p Progress
		err := lines.Decode(&p)
		switch {
		case ctx.Err() != nil:
			return Image{}, context.Cause(ctx)
		case errors.Is(err, io.EOF) || err != nil:
			return Image{}, &vortex.Error{Kind: vortex.Unavailable, Msg: "the server went away before it was done; try again", Err: err}
		case p.Error != nil:
			return Image{}, &Error{Status: p.Status, ErrorBody: *p.Error}
		case p.Image != nil:
			return *p.Image, nil
		case report != nil:
			report(p)
		}
	}
}
