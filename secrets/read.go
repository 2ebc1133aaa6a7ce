package secrets

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// Limits of what is read.
const (
	maxFile  = 1 << 20  // bytes of one file; Swarm's own limit is half of it
	maxFiles = 4096     // in one directory
	maxBytes = 64 << 20 // of one collection
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
	m, errs, _ := newReader(0).read(cfg, mounted, declared)
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

// read is Read with what r knows from before. waiting is set where something is just
// being changed: it is as it was before, and must be looked at again soon.
func (r *reader) read(cfg *config.Config, mounted string, declared map[string]string) (m *Material, errs []error, waiting bool) {
	r.begin(ownFiles(cfg))
	m = &Material{shelves: map[string]shelf{}, declared: map[string]Item{}, refused: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Collections)) {
		c := cfg.Collections[name].Certificates
		s := shelf{secrets: map[string]Item{}, files: map[string]Item{}, refused: map[string]string{}}
		left := r.maxBytes
		put := func(into map[string]Item, kind Kind, name string, f *file) error {
			if !f.data.any() {
				if f.err != nil {
					s.refused[name] = f.err.Error()
				}
				return f.err // none where it is just being written
			}
			if left -= len(f.data.Reveal()); left < 0 {
				s.refused[name] = fmt.Sprintf("the collection's material is larger than %d KiB", r.maxBytes>>10)
				return fmt.Errorf("%s", s.refused[name])
			}
			i := Item{Kind: kind, Name: name, Data: f.data}
			if f.err != nil {
				i.Kept = f.err.Error()
			}
			into[name] = i
			return f.err
		}
		for _, secret := range c.Secrets {
			if err := put(s.secrets, Secret, secret, r.one(mounted, secret)); err != nil {
				if isGone(err) {
					delete(s.refused, secret) // it was not given
				}
				errs = append(errs, fmt.Errorf("collections.%s.certificates.secrets: %s: %w; mount it with `docker service update --secret-add %s`", name, secret, err, secret))
			}
		}
		for _, dir := range c.Directories {
			files, err := r.directory(dir)
			if err != nil {
				errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %w", name, err))
			}
			for _, file := range slices.Sorted(maps.Keys(files)) {
				if _, taken := s.files[file]; taken {
					continue // the first directory holds
				}
				if err := put(s.files, File, file, files[file]); err != nil {
					errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %s: %w", name, filepath.Join(dir, file), err))
				}
			}
		}
		m.shelves[name] = s
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		path := declared[name]
		f := r.one(filepath.Dir(path), filepath.Base(path))
		if f.err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %s: %w", name, path, f.err))
			m.refused[name] = f.err.Error()
		}
		if f.data.any() {
			i := Item{Kind: Secret, Name: name, Data: f.data}
			if f.err != nil {
				i.Kept = f.err.Error()
			}
			m.declared[name] = i
		}
	}
	return m, errs, r.end()
}

// list gives the names of at most so many files of a directory that may be material.
func list(dir string, most int) ([]string, error) {
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
		if len(names) == most {
			return names, fmt.Errorf("%s has more than %d files: the others are not read", dir, most)
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// ownFiles are those of the control plane's own identity and tokens.
func ownFiles(cfg *config.Config) []fs.FileInfo {
	var own []fs.FileInfo
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
