package launch

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

const wayOut = "give a writable directory with --dir, on a read-only root a tmpfs"

// directory is where the files go, as an absolute path, and how it is removed.
func directory(named string) (dir string, remove func(), err error) {
	if named != "" {
		dir, err = filepath.Abs(named)
		return dir, func() {}, err
	}
	if dir, err = os.MkdirTemp("", "waggle-envoy-"); err != nil {
		return "", nil, fmt.Errorf("a directory for the bootstrap file: %w: %s", err, wayOut)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil // what is left over harms nobody
}

// makeBootstrap is the bootstrap with a node ID, its SDS files in dir, and with the
// statistics that the drain reads.
func makeBootstrap(o bootstrap.Options, dir string) (*bootstrapv3.Bootstrap, error) {
	if o.NodeID == "" && o.Collection != "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name this proxy by its host: %w: give a node ID", err)
		}
		o.NodeID = o.Collection + "/" + host
	}
	if o.TLS != nil && o.TLS.SDSDirectory == "" {
		tls := *o.TLS
		tls.SDSDirectory = dir
		o.TLS = &tls
	}
	b, err := bootstrap.New(o)
	if err != nil {
		return nil, err
	}
	if list := b.GetStatsConfig().GetStatsMatcher().GetInclusionList(); list != nil {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: connectionsOfListeners},
		}})
	}
	return b, nil
}

// write puts what Envoy reads at its start into dir, but for SDS files that have a
// place of their own: those are somebody else's.
func write(dir string, b *bootstrapv3.Bootstrap, tls *bootstrap.TLS) (file string, err error) {
	raw, err := bootstrap.Marshal(b)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "bootstrap.json")
	// It may be there from before the container was started again.
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("write the bootstrap file: %w: %s", err, wayOut)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return "", fmt.Errorf("write the bootstrap file: %w: %s", err, wayOut)
	}
	if tls != nil && tls.SDSDirectory == "" {
		if err := bootstrap.WriteSDS(dir, *tls); err != nil {
			return "", fmt.Errorf("%w: %s", err, wayOut)
		}
	}
	return file, nil
}

// warn says which files of the channel cannot be read. Envoy waits for them, without a
// word, and so does the proxy's readiness.
func warn(tls *bootstrap.TLS, log *slog.Logger) {
	if tls == nil {
		log.Warn("the channel to the control plane has no TLS: use that on a network that is yours alone")
		return
	}
	for _, path := range []string{cmp.Or(tls.Cert, "tls.crt"), cmp.Or(tls.Key, "tls.key"), cmp.Or(tls.CA, "ca.crt")} {
		if !filepath.IsAbs(path) {
			path = filepath.Join(tls.Directory, path)
		}
		f, err := os.Open(path)
		if err != nil {
			log.Warn("the proxy waits for a file of its channel to the control plane", "because", err)
			continue
		}
		_ = f.Close()
	}
}
