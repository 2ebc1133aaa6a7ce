package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// maxFile bounds what is read of a configuration or of a file that one names.
const maxFile = 1 << 20

// Check looks at a map of label keys (defaults or required of a collection) and
// says what is wrong with it. where is its key path, "collections.dev.defaults".
// The label language is not this package's: the caller brings the check.
type Check func(where string, labels map[string]string) []error

// Load reads the file at path, fills in the defaults, applies the WAGGLE_…
// variables of env ("KEY=value", as os.Environ gives them) and checks the whole.
// An empty path is the built-in configuration: one collection, "default". A file
// that ends in .toml is Interlock's config.toml, read as what it would be as waggle.yml.
//
// The error joins everything that is wrong, each an *Error of one sentence. The
// notices say what was accepted without having an effect.
func Load(path string, env []string, checks ...Check) (*Config, []Notice, error) {
	if path == "" {
		return parse("built-in configuration", nil, false, env, checks)
	}
	data, err := readBounded(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	return parse(path, data, isInterlock(path), env, checks)
}

// Parse is Load for the content of a file, which its messages call waggle.yml.
// Files that the configuration names (token_file) are read.
func Parse(data []byte, env []string, checks ...Check) (*Config, []Notice, error) {
	return parse("waggle.yml", data, false, env, checks)
}

func parse(name string, data []byte, toml bool, env []string, checks []Check) (*Config, []Notice, error) {
	c := base()
	r := &reader{file: name, where: map[string]string{}}
	var notices []Notice
	if toml {
		notices = r.interlock(data, c)
	} else {
		r.document(data, c)
	}
	c.Order = r.order
	notices = append(notices, r.environment(env, c)...)
	if toml {
		notices = append(notices, r.channelNotice(c)...)
	}

	if len(c.Collections) == 0 {
		c.Collections = map[string]*Collection{"default": NewCollection("default")}
		c.Collections["default"].Default = true
		c.Order = []string{"default"}
	}
	for _, coll := range c.Collections {
		if coll.HTTPSPublicPort == 0 {
			coll.HTTPSPublicPort = coll.HTTPSPort
		}
	}
	r.check(c)
	for _, name := range c.Order {
		for _, check := range checks {
			r.labels(check, "collections."+name+".defaults", c.Collections[name].Defaults)
			r.labels(check, "collections."+name+".required", c.Collections[name].Required)
		}
	}
	notices = append(notices, r.unbuilt(c)...)
	if len(r.errs) > 0 {
		return nil, notices, errors.Join(r.errs...)
	}
	return c, notices, nil
}

func (r *reader) labels(check Check, key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	for _, err := range check(key, m) {
		r.fail(key, strings.TrimPrefix(err.Error(), key+": "), "")
	}
}

// base is the configuration of an empty file, without its collection.
func base() *Config {
	return &Config{
		XDS:   XDS{Address: ":18000"},
		Admin: Admin{Address: "127.0.0.1:19000"},
		Swarm: Swarm{
			Source:        "auto",
			Host:          "unix:///var/run/docker.sock",
			ControlSocket: "/var/run/docker/swarm/control.sock",
			PollInterval:  time.Second,
		},
		LabelPrefixes: []string{"com.docker.lb", "lb"},
		StateDir:      "/var/lib/waggle",
		Collections:   map[string]*Collection{},
	}
}

// NewCollection is a collection of which the file says nothing but its name.
// Its HTTPSPublicPort is 0 until the whole file is read: it follows HTTPSPort.
func NewCollection(name string) *Collection {
	return &Collection{
		Name:       name,
		Bind:       "0.0.0.0",
		HTTPPort:   80,
		HTTPSPort:  443,
		ShareHosts: "owner",
		Routes:     "rds",
	}
}

// ForCollections is the built-in configuration with a collection for each name,
// in their order, and the collection "default", which takes what names none:
// what commands use that look at stack files alone.
func ForCollections(names []string) *Config {
	c := base()
	for _, name := range append(slices.Clone(names), "default") {
		if c.Collections[name] != nil {
			continue
		}
		coll := NewCollection(name)
		coll.HTTPSPublicPort = coll.HTTPSPort
		coll.Default = name == "default"
		c.Collections[name] = coll
		c.Order = append(c.Order, name)
	}
	return c
}

// readFile gives the content of a file named by a key that ends in _file, without the blanks around it.
func readFile(path string) (string, error) {
	// Asked before it is opened: opening a pipe would wait for its writer.
	if info, err := os.Stat(path); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	data, err := readBounded(path)
	return strings.TrimSpace(string(data)), err
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than 1 MiB", path)
	}
	return data, err
}
