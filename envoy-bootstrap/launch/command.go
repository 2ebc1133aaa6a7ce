package launch

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// image is where Envoy's own images have it.
const image = "/usr/local/bin/envoy"

// Find gives the path of Envoy: the one that is named; else what the environment
// variable ENVOY names; else /usr/local/bin/envoy; else envoy on the PATH.
func Find(named string) (string, error) {
	for _, n := range []struct{ path, by string }{{named, "--envoy"}, {os.Getenv("ENVOY"), "the variable ENVOY"}} {
		if n.path == "" {
			continue
		}
		path, err := exec.LookPath(n.path)
		if err != nil {
			return "", fmt.Errorf("%s names %s, which is no program that can be run: %w", n.by, n.path, err)
		}
		return path, nil
	}
	for _, path := range []string{image, "envoy"} {
		if path, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Envoy found, neither " + image + " nor envoy on the PATH: put waggle into an image that has Envoy, or name the binary with --envoy or the variable ENVOY")
}

// arguments are Envoy's flags. Those that are given win over Waggle's own: Envoy
// refuses a flag that is there twice.
func arguments(o Options, file string) ([]string, error) {
	if has(o.Args, "-c", "--config-path") {
		return nil, errors.New("the flag --config-path is not yours to give: the bootstrap file is written from Waggle's own flags; to add to it give --config-yaml")
	}
	seconds := int64(math.Ceil(o.ListenerDrain.Seconds()))
	if o.ListenerDrain < 0 || seconds > math.MaxInt32 {
		return nil, fmt.Errorf("drain time of changed listeners %v: use something from 0 to some days", o.ListenerDrain)
	}
	if o.Concurrency < 0 {
		return nil, fmt.Errorf("concurrency %d: use the number of worker threads, or 0 for one per CPU", o.Concurrency)
	}
	args := []string{"--config-path", file}
	add := func(value string, names ...string) {
		if !has(o.Args, names...) {
			args = append(args, names[0])
			if value != "" {
				args = append(args, value)
			}
		}
	}
	// No shared memory, whose number would collide on a host network, and no
	// second Envoy that could take over: the container is replaced as a whole.
	add("", "--disable-hot-restart")
	add(strconv.Itoa(cmp.Or(o.Concurrency, runtime.GOMAXPROCS(0))), "--concurrency")
	add(cmp.Or(o.LogLevel, "warning"), "--log-level", "-l")
	// Every answer during a drain closes its connection; by default only more and more do.
	add("immediate", "--drain-strategy")
	add(strconv.FormatInt(seconds, 10), "--drain-time-s")
	return append(args, o.Args...), nil
}

// has says whether args hold one of the flags, as "--flag value" or "--flag=value".
func has(args []string, flags ...string) bool {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		for _, f := range flags {
			if name == f || len(f) == 2 && strings.HasPrefix(a, f) {
				return true
			}
		}
	}
	return false
}
