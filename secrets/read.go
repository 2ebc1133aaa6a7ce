package secrets

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// Limits of what is read.
const (
	maxFile  = 1 << 20 // bytes of one file; Swarm's own limit is half of it
	maxFiles = 4096    // in one directory
)

// MountedSecrets is where Swarm mounts the secrets of a service.
const MountedSecrets = "/run/secrets"

// plainName is what an object may be called; others are never looked at.
var plainName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)

// Read reads what the configuration gives to each collection: the files of its
// directories, and its Docker secrets from mounted (MountedSecrets). declared are
// files by the name of the secret that a stack file makes of them. What cannot be
// read is left out and told in a sentence; the files of the control plane's own
// identity are never read.
func Read(cfg *config.Config, mounted string, declared map[string]string) (*Material, []error) {
	var errs []error
	own := ownFiles(cfg)
	m := &Material{shelves: map[string]shelf{}, declared: map[string]Item{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Collections)) {
		c := cfg.Collections[name].Certificates
		s := shelf{secrets: map[string]Item{}, files: map[string]Item{}}
		for _, secret := range c.Secrets {
			i, err := item(Secret, secret, mounted, own)
			if err != nil {
				errs = append(errs, fmt.Errorf("collections.%s.certificates.secrets: %s: %w; mount it with `docker service update --secret-add %s`", name, secret, err, secret))
				continue
			}
			s.secrets[secret] = i
		}
		for _, dir := range c.Directories {
			files, err := list(dir)
			if err != nil {
				errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %w", name, err))
			}
			for _, file := range files {
				if _, taken := s.files[file]; taken {
					continue // the first directory holds
				}
				i, err := item(File, file, dir, own)
				if err != nil {
					errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %s: %w", name, filepath.Join(dir, file), err))
					continue
				}
				s.files[file] = i
			}
		}
		m.shelves[name] = s
	}
	for name, file := range declared {
		i, err := item(Secret, filepath.Base(file), filepath.Dir(file), own)
		if err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %s: %w", name, file, err))
			continue
		}
		i.Name = name
		m.declared[name] = i
	}
	return m, errs
}

// OfFiles reads what commands on stack files have: the secrets that the files make,
// and the directories of the configuration, as far as they are on this machine.
func OfFiles(cfg *config.Config, p *watcher.Picture) (*Material, []error) {
	here := *cfg
	here.Collections = maps.Clone(cfg.Collections)
	for name, c := range here.Collections {
		own := *c
		own.Certificates.Secrets = nil // they are mounted into a control plane, and this is none
		own.Certificates.Directories = slices.DeleteFunc(slices.Clone(c.Certificates.Directories), func(dir string) bool {
			_, err := os.Stat(dir)
			return err != nil
		})
		here.Collections[name] = &own
	}
	return Read(&here, "", declaredBy(p))
}

// declaredBy gives the files of secrets that stack files make, by the secret's name.
func declaredBy(p *watcher.Picture) map[string]string {
	files := map[string]string{}
	for name, s := range p.Secrets {
		if s.File != "" {
			files[name] = s.File
		}
	}
	return files
}

// list gives the names of the files of a directory that may be material.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		// What is hidden is somebody's bookkeeping ("..data" of mounted volumes).
		if e.IsDir() || !plainName.MatchString(e.Name()) {
			continue
		}
		if len(names) == maxFiles {
			return names, fmt.Errorf("%s has more than %d files: the others are not read", dir, maxFiles)
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// item reads one file of a directory. A link may lead within the directory, as those
// of mounted volumes do, and nowhere else.
func item(kind Kind, name, dir string, own []os.FileInfo) (Item, error) {
	if strings.ContainsAny(name, "/\\") || !filepath.IsLocal(name) {
		return Item{}, fmt.Errorf("%q is not the name of a file", name)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Item{}, err
	}
	defer root.Close()
	st, err := root.Stat(name)
	switch {
	case err != nil:
		return Item{}, err
	case !st.Mode().IsRegular():
		return Item{}, fmt.Errorf("is not a regular file")
	case st.Size() > maxFile:
		return Item{}, fmt.Errorf("has %d bytes, and at most %d are read", st.Size(), maxFile)
	case slices.ContainsFunc(own, func(o os.FileInfo) bool { return os.SameFile(o, st) }):
		return Item{}, fmt.Errorf("belongs to the control plane itself and is never used for a collection")
	}
	data, err := root.ReadFile(name)
	if err != nil {
		return Item{}, err
	}
	return Item{Kind: kind, Name: name, Data: Hide(data)}, nil
}

// ownFiles are those of the control plane's own identity and tokens.
func ownFiles(cfg *config.Config) []os.FileInfo {
	var own []os.FileInfo
	names := []string{cfg.Admin.TokenFile}
	if t := cfg.XDS.TLS; t != nil {
		names = append(names, t.CA, t.Cert, t.Key)
	}
	for _, n := range names {
		if n == "" {
			continue
		}
		if st, err := os.Stat(n); err == nil {
			own = append(own, st)
		}
	}
	return own
}
