package spec

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"vortex"
)

// isCompose reports whether a document is a compose file: it has services and nothing of an App spec.
func isCompose(doc *yaml.Node) bool {
	services := false
	for i := 0; doc.Kind == yaml.MappingNode && i+1 < len(doc.Content); i += 2 {
		switch doc.Content[i].Value {
		case "services":
			services = true
		case "kind", "metadata", "spec":
			return false
		}
	}
	return services
}

// composeFile is a compose file on its way to apps.
type composeFile struct {
	src *source
	doc *yaml.Node
	at  places // by the path in the compose file: "services.web.ports[0]"
	env types.Mapping
	dir string
}

// compose translates a compose file, one app for each service, in the order of their names. Every key that has no meaning
// here is a fault, all of them in one error, so that nothing a user wrote is dropped.
func (p Parser) compose(src *source, doc *yaml.Node) ([]vortex.App, error) {
	c := composeFile{src: src, doc: doc, at: places{"": {value: doc}}, dir: p.Dir}
	if err := c.environment(p.Environment); err != nil {
		return nil, err
	}
	c.keys()
	if err := src.err(); err != nil {
		return nil, err
	}
	project := c.load()
	if project == nil {
		return nil, src.err()
	}
	var apps []vortex.App
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		s := service{composeFile: &c, path: "services." + name, config: project.Services[name]}
		apps = append(apps, s.translate(name))
	}
	c.sharedVolumes(apps)
	if err := src.err(); err != nil {
		return nil, err
	}
	return apps, nil
}

// environment gathers what ${NAME} is replaced with: .env beside the file, and what the caller gives, which wins.
func (c *composeFile) environment(given map[string]string) error {
	c.env = types.Mapping{}
	maps.Copy(c.env, given)
	if c.dir == "" {
		return nil
	}
	file := filepath.Join(c.dir, ".env")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return openError(file, err)
	}
	values, err := dotenv.UnmarshalBytesWithLookup(data, types.Mapping(given).Resolve)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "%s: %s", file, err)
	}
	maps.Copy(c.env, values)
	maps.Copy(c.env, given)
	return nil
}

// load hands the document to the compose library. It returns nil when that refuses it.
func (c *composeFile) load() *types.Project {
	var config map[string]any
	if err := c.doc.Decode(&config); err != nil {
		c.src.yamlFault(err)
		return nil
	}
	delete(config, "version") // means nothing to compose either
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  "/",
		Environment: c.env,
		ConfigFiles: []types.ConfigFile{{Filename: c.src.file, Config: config}},
	}, func(o *loader.Options) {
		o.SetProjectName("vortex", true)
		o.SkipInclude, o.SkipNormalization, o.SkipResolveEnvironment, o.SkipResolveLabels = true, true, true, true
		o.ResolvePaths = false
		o.Interpolate.Substitute = func(text string, mapping template.Mapping) (string, error) {
			return template.SubstituteWithOptions(text, mapping, template.WithoutLogging)
		}
	})
	if err != nil {
		c.refused(err)
		return nil
	}
	return c.envFiles(project)
}

// envFiles adds the variables of each service's env_file, which are found from the directory of the compose file.
func (c *composeFile) envFiles(project *types.Project) *types.Project {
	for name, s := range project.Services {
		if len(s.EnvFiles) > 0 && c.dir == "" {
			c.src.fault(c.at.of("services."+name+".env_file"),
				"services.%s.env_file: files beside the compose file cannot be read here; apply the compose file by its name, or write the variables under environment", name)
			return nil
		}
		for i, file := range s.EnvFiles {
			if !filepath.IsAbs(file.Path) {
				s.EnvFiles[i].Path = filepath.Join(c.dir, file.Path)
			}
		}
	}
	resolved, err := project.WithServicesEnvironmentResolved(true)
	if err != nil {
		c.refused(err)
		return nil
	}
	return resolved
}

// composePath finds the field that the compose library complains about.
var composePath = regexp.MustCompile(`\bservices\.[A-Za-z0-9_.\[\]-]*[A-Za-z0-9_\]]`)

// composeService finds the service that it complains about.
var composeService = regexp.MustCompile(`\bservice "([^"]+)"`)

// composeItem is how it writes an item of a list.
var composeItem = regexp.MustCompile(`\.(\d+)(\.|$)`)

// refused adds what the compose library complains about.
func (c *composeFile) refused(err error) {
	msg := strings.TrimPrefix(err.Error(), "validating "+c.src.file+": ")
	msg = strings.TrimSuffix(msg, ": invalid compose project")
	at := composeItem.ReplaceAllString(composePath.FindString(msg), "[$1]$2")
	if name := composeService.FindStringSubmatch(msg); at == "" && name != nil {
		at = "services." + name[1]
	}
	c.src.fault(c.at.of(at), "this is no valid compose file: %s", msg)
}
