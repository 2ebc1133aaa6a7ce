package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the waggle that is tested: built from this tree, so that it is never an old one.
var binary string

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waggle-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 2
	}
	defer os.RemoveAll(dir)
	// ip, iptables and dockerd are in sbin, which is not in every PATH.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	binary = filepath.Join(dir, "waggle")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=e2e", "-o", binary, "../cmd/waggle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in an image from scratch
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: build cmd/waggle: %v\n%s", err, out)
		return 2
	}
	return m.Run()
}
