package client

import "time"

// Image is an image in the server's local store.
type Image struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"` // bytes of its layers, compressed
	CreatedAt time.Time `json:"created_at,omitzero"`
	InUse     bool      `json:"in_use"`
}

// ImageList is the answer to GET /images.
type ImageList struct {
	Images []Image `json:"images"`
	Total  int     `json:"total"`
}

// PullRequest is the body of POST /images/pull and POST /images/push.
type PullRequest struct {
	Reference string `json:"reference"`
	Username  string `json:"username,omitempty"` // for the registry, with Password
	Password  string `json:"password,omitempty"`
}

// BuildRequest is the body of POST /images/build when what to build is a repository or a directory of the server's machine.
type BuildRequest struct {
	Name       string `json:"name"`           // the image's name
	Repo       string `json:"repo,omitempty"` // a git URL, #branch after it if wished
	Path       string `json:"path,omitempty"` // an absolute directory on the server's machine
	Dockerfile string `json:"dockerfile,omitempty"`
}

// Progress is one line of the answer to a pull, push, import or build. The last one holds Image or Error.
type Progress struct {
	Message string     `json:"message,omitempty"`
	Done    int64      `json:"done,omitempty"`  // bytes
	Total   int64      `json:"total,omitempty"` // bytes; 0 when not known
	Image   *Image     `json:"image,omitempty"`
	Error   *ErrorBody `json:"error,omitempty"`
	Status  int        `json:"status,omitempty"` // with Error: the HTTP status it would have had
}
