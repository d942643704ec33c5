package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

func (a *cli) imageCommand() *cobra.Command {
	cmd := group("image", "Manage the server's images",
		a.imageListCommand(), a.imagePullCommand(), a.imagePushCommand(), a.imageBuildCommand(), a.imageImportCommand(), a.imageRemoveCommand())
	cmd.Aliases = []string{"images"}
	return cmd
}

func (a *cli) imageListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List local images", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			images, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return show(a, list[client.Image]{
				items: images.Images, object: images, name: func(i client.Image) string { return i.Reference },
				empty: "no images; `vortex image pull`, `build` or `import` brings one",
				columns: []column[client.Image]{
					{"IMAGE", false, func(i client.Image) string { return i.Reference }},
					{"DIGEST", false, func(i client.Image) string { return shortDigest(i.Digest, a.output == "wide") }},
					{"SIZE", false, func(i client.Image) string { return size(uint64(max(i.Size, 0))) }},
					{"IN USE", false, func(i client.Image) string {
						if i.InUse {
							return "yes"
						}
						return "-"
					}},
					{"AGE", false, func(i client.Image) string { return since(&i.CreatedAt) }},
				},
			})
		},
	}
}

func shortDigest(digest string, whole bool) string {
	const shown = len("sha256:") + 12
	if whole || len(digest) <= shown {
		return digest
	}
	return digest[:shown]
}

// registryFlags add the credentials of a registry.
func registryFlags(cmd *cobra.Command, req *client.PullRequest, fromStdin *bool) {
	cmd.Flags().StringVar(&req.Username, "username", "", "user of the registry (default: as `docker login` left it)")
	cmd.Flags().BoolVar(fromStdin, "password-stdin", false, "read the password from stdin")
}

// password reads the registry's password.
func (a *cli) password(req *client.PullRequest, fromStdin bool) error {
	if !fromStdin {
		return nil
	}
	data, err := io.ReadAll(a.env.Stdin)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "the password cannot be read: %w", err)
	}
	req.Password = trimNewline(string(data))
	return nil
}

func (a *cli) imagePullCommand() *cobra.Command {
	var req client.PullRequest
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Make the server pull an image", Args: between(1, 1, "an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Reference = args[0]
			if err := a.password(&req, fromStdin); err != nil {
				return err
			}
			return a.imageResult(func(c *client.Client) (client.Image, error) {
				return c.PullImage(cmd.Context(), req, a.showProgress)
			})
		},
	}
	registryFlags(cmd, &req, &fromStdin)
	return cmd
}

func (a *cli) imagePushCommand() *cobra.Command {
	var req client.PullRequest
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "push IMAGE", Short: "Make the server push an image to its registry", Args: between(1, 1, "an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Reference = args[0]
			if err := a.password(&req, fromStdin); err != nil {
				return err
			}
			return a.imageResult(func(c *client.Client) (client.Image, error) {
				return client.Image{Reference: req.Reference}, c.PushImage(cmd.Context(), req, a.showProgress)
			})
		},
	}
	registryFlags(cmd, &req, &fromStdin)
	return cmd
}

func (a *cli) imageBuildCommand() *cobra.Command {
	var req client.BuildRequest
	cmd := &cobra.Command{
		Use: "build -t NAME PATH", Short: "Build an image of a static executable, a directory with one or with a Dockerfile, or of a repository",
		Example: "  vortex image build -t hello:v1 .\n  vortex image build -t hello:v1 --repo https://example.com/hello.git#main",
		Args:    between(0, 1, "a directory or an executable"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Name == "" {
				return errUsage("expected -t with the image's name, got nothing\nusage: %s", cmd.UseLine())
			}
			if (req.Repo == "") == (len(args) == 0) {
				return errUsage("expected either a path or --repo\nusage: %s", cmd.UseLine())
			}
			return a.imageResult(func(c *client.Client) (client.Image, error) {
				if req.Repo != "" {
					return c.BuildImage(cmd.Context(), req, a.showProgress)
				}
				return a.buildPath(cmd.Context(), c, args[0], req)
			})
		},
	}
	cmd.Flags().StringVarP(&req.Name, "tag", "t", "", "the image's name")
	cmd.Flags().StringVar(&req.Repo, "repo", "", "git repository to build, #branch after it if wished")
	cmd.Flags().StringVar(&req.Dockerfile, "dockerfile", "", "the Dockerfile's name (default: Dockerfile)")
	return cmd
}

func (a *cli) imageImportCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "import FILE|-", Short: "Send an archive made by docker save, or an OCI archive",
		Example: "  docker save hello:v1 | vortex image import -",
		Args:    between(1, 1, "a file or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			archive := a.env.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return vortex.Errorf(vortex.NotFound, "the archive cannot be read: %w", err)
				}
				defer f.Close()
				archive = f
			}
			return a.imageResult(func(c *client.Client) (client.Image, error) {
				return c.ImportImage(cmd.Context(), archive, name, a.showProgress)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the image's name (default: the archive's)")
	return cmd
}

// imageResult does something that ends with an image, and prints it.
func (a *cli) imageResult(work func(*client.Client) (client.Image, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	image, err := work(c)
	a.endStatus()
	if err != nil {
		return err
	}
	return a.result(image, image.Reference, "%s %s", image.Reference, a.style.dim(shortDigest(image.Digest, false)))
}

func (a *cli) imageRemoveCommand() *cobra.Command {
	var forced bool
	cmd := &cobra.Command{
		Use: "rm IMAGE…", Aliases: []string{"remove"}, Short: "Remove local images", Args: atLeast(1, "images"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, ref := range args {
				if err := removeImage(cmd.Context(), a, c, ref, forced); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&forced, "force", false, "also when it is in use")
	return cmd
}

func removeImage(ctx context.Context, a *cli, c *client.Client, ref string, forced bool) error {
	if err := c.RemoveImage(ctx, ref, forced); err != nil {
		return err
	}
	return a.result(map[string]string{"reference": ref}, ref, "%s removed", ref)
}
