package secrets

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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
	maxFile  = 1 << 20  // bytes of one file; Swarm's own limit is half of it
	maxFiles = 4096     // in one directory
	maxBytes = 64 << 20 // of one collection
)

// MountedSecrets is where Swarm mounts the secrets of a service.
const MountedSecrets = "/run/secrets"

// plainName is what an object may be called; others are never looked at.
var plainName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)

// Read reads what the configuration gives to each collection: the files of its
// directories, and its Docker secrets from mounted (MountedSecrets). declared says
// where the content of secrets is that a stack file makes, by their names. What cannot be
// read is left out and told in a sentence; the files of the control plane's own
// identity are never read.
func Read(cfg *config.Config, mounted string, declared map[string]Origin) (*Material, []error) {
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

// Origin is where the content of a secret is that a stack file makes: in a file, or in
// a variable of this process.
type Origin struct{ File, Variable string }

// declaredBy says where the content of secrets is that stack files make, by their names.
func declaredBy(p *watcher.Picture) map[string]Origin {
	made := map[string]Origin{}
	for name, s := range p.Secrets {
		if s.File != "" || s.Variable != "" {
			made[name] = Origin{s.File, s.Variable}
		}
	}
	return made
}

// variable reads a variable as if it were a file.
func variable(name string) *file {
	value, set := os.LookupEnv(name)
	switch {
	case !set:
		return &file{err: errors.New("the variable is not set")}
	case value == "":
		return &file{err: errEmpty}
	case len(value) > maxFile:
		return &file{err: fmt.Errorf("is larger than %d KiB", maxFile>>10)}
	}
	return &file{data: Hide([]byte(value))}
}

// read is Read with what r knows from before. waiting is set where something is just
// being changed: it is as it was before, and must be looked at again soon.
func (r *reader) read(cfg *config.Config, mounted string, declared map[string]Origin) (m *Material, errs []error, waiting bool) {
	r.begin(ownFiles(cfg, r.local.paths))
	m = &Material{shelves: map[string]shelf{}, declared: map[string]Item{}, refused: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Collections)) {
		s, failed := r.collection(name, cfg.Collections[name].Certificates, mounted)
		m.shelves[name], errs = s, append(errs, failed...)
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		at, f := declared[name].File, (*file)(nil)
		if at != "" {
			f = r.one(filepath.Dir(at), filepath.Base(at))
		} else {
			at = declared[name].Variable
			f = variable(at)
		}
		if f.err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %s: %w", name, at, f.err))
			m.refused[name] = f.err.Error()
		}
		if i, ok := r.item("", Item{Kind: Secret, Name: name}, f); ok {
			m.declared[name] = i
		}
	}
	r.certify(m)
	return m, errs, r.end()
}

// collection reads what one collection has.
func (r *reader) collection(name string, c config.Certificates, mounted string) (s shelf, errs []error) {
	s = shelf{secrets: map[string]Item{}, files: map[string]Item{}, refused: map[string]string{}}
	left := r.maxBytes
	put := func(into map[string]Item, i Item, f *file) error {
		i, usable := r.item(name, i, f)
		if !usable {
			if f.err != nil {
				s.refused[i.Name] = f.err.Error()
			}
			return f.err // none where it is just being written
		}
		if left -= len(i.Data.Reveal()); left < 0 {
			s.refused[i.Name] = fmt.Sprintf("the collection's material is larger than %d KiB", r.maxBytes>>10)
			return errors.New(s.refused[i.Name])
		}
		into[i.Name] = i
		return f.err
	}
	for _, secret := range c.Secrets {
		if err := put(s.secrets, Item{Kind: Secret, Name: secret}, r.one(mounted, secret)); err != nil {
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
		for _, path := range slices.SortedFunc(maps.Keys(files), shallowFirst) {
			i := Item{Kind: File, Name: plain(path), under: filepath.Dir(filepath.Join(dir, path))}
			if other, taken := s.files[i.Name]; taken {
				if other.under != i.under { // the first one holds
					errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %s is not used: %s has a file that is called the same", name, filepath.Join(dir, path), other.under))
				}
				continue
			}
			if err := put(s.files, i, files[path]); err != nil {
				errs = append(errs, fmt.Errorf("collections.%s.certificates.directories: %s: %w", name, filepath.Join(dir, path), err))
			}
		}
	}
	return s, errs
}

// item puts what was read of a file into an item; false where there is nothing to use.
func (r *reader) item(collection string, i Item, f *file) (Item, bool) {
	i.Data = f.data
	if f.err != nil {
		i.Kept = f.err.Error()
	}
	if !f.data.any() && errors.Is(f.err, errEmpty) && r.examiner.had(place{collection, i.Kind, i.Name}) {
		i.Data, i.Kept = Hide(nil), "" // broken as any other content that is no certificate
		return i, true
	}
	return i, f.data.any()
}

// certify finds the certificates of what was read.
func (r *reader) certify(m *Material) {
	x := r.examiner
	x.look("", m.declared)
	for name, s := range m.shelves {
		x.look(name, s.secrets, s.files)
	}
	var others []*x509.Certificate
	if m.local = r.local.ca; m.local != nil {
		others = append(others, m.local.cert)
	}
	m.at, r.next = x.moments(r.now(), others...) // of what was looked at
	x.remember("", m.at, m.declared)
	for name, s := range m.shelves {
		x.remember(name, m.at, s.secrets, s.files)
		s.pairs = x.directories(s.files, m.at)
		m.shelves[name] = s
	}
}

// plain is the name of a file by its path in a directory: those of directories in it
// have theirs before it.
func plain(path string) string {
	if strings.Count(path, "/") == deepest {
		path = strings.TrimPrefix(path, certbotLive+"/")
	}
	return strings.ReplaceAll(path, "/", "-")
}

func shallowFirst(a, b string) int {
	return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), cmp.Compare(a, b))
}

// The directories of certbot: links to what is in force, and every version that there was.
const certbotLive, certbotArchive = "live", "archive"

// deepest is how deep directories are looked into.
const deepest = 2

// list gives the paths of at most so many files of a directory that may be material,
// and the directories in it. Of what certbot keeps only what is in force is material.
func list(dir string, most int) (files, inside []string, err error) {
	top := ""
	if isDir(filepath.Join(dir, certbotLive)) && isDir(filepath.Join(dir, certbotArchive)) {
		top = certbotLive
	}
	var walk func(sub string, depth int) error
	walk = func(sub string, depth int) error {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			// What is hidden is somebody's bookkeeping ("..data" of mounted volumes).
			if !plainName.MatchString(e.Name()) {
				continue
			}
			path := filepath.Join(sub, e.Name())
			if e.IsDir() { // no link: what it leads to is found where it is
				if depth == deepest {
					continue
				}
				if len(inside) == most {
					return fmt.Errorf("%s has more than %d directories: the others are not read", dir, most)
				}
				inside = append(inside, path)
				if err := walk(path, depth+1); err != nil && !isGone(err) {
					return err
				}
				continue
			}
			if len(files) == most {
				return fmt.Errorf("%s has more than %d files: the others are not read", dir, most)
			}
			files = append(files, path)
		}
		return nil
	}
	depth := 0
	if top != "" {
		inside, depth = append(inside, top), 1
	}
	err = walk(top, depth)
	return files, inside, err
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// ownFiles are those of the control plane's own identity and tokens.
func ownFiles(cfg *config.Config, more []string) []fs.FileInfo {
	var own []fs.FileInfo
	names := append([]string{cfg.Admin.TokenFile}, more...)
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
