package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/waggle-lb/waggle/translate"
)

const (
	// format is the version of the files; others are put aside.
	format = 1
	magic  = "waggle-last-good"
	// maxBytes bounds a file.
	maxBytes = 256 << 20
	ending   = ".last-good"
)

// content is a file: the last accepted generation of one collection.
type content struct {
	Collection string     `json:"collection"`
	Accepted   time.Time  `json:"accepted"`
	Resources  []resource `json:"resources"`
}

type resource struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	EDS  bool   `json:"eds,omitempty"`
	Refs []ref  `json:"refs,omitempty"`
	Body []byte `json:"body"`
}

type ref struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Store is the files in a directory, one for each collection.
type Store struct{ Dir string }

// file is the path of a collection's.
func (s Store) file(collection string) string {
	return filepath.Join(s.Dir, url.PathEscape(collection)+ending)
}

// write replaces a collection's file by resources, which are public, whole or not at all.
func (s Store) write(collection string, accepted time.Time, resources []*translate.Resource) error {
	raw, err := encode(content{Collection: collection, Accepted: accepted.UTC(), Resources: written(resources)})
	if err != nil {
		return fmt.Errorf("keep what proxies of collection %q accepted: %w", collection, err)
	}
	if err := s.replace(s.file(collection), raw); err != nil {
		return fmt.Errorf("keep what proxies of collection %q accepted: %w", collection, err)
	}
	return nil
}

func (s Store) replace(file string, raw []byte) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(s.Dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes what a process left that ended in the middle of a write.
func (s Store) sweep(now time.Time) {
	left, _ := filepath.Glob(filepath.Join(s.Dir, ".new-*")) // fails for bad patterns alone
	for _, file := range left {
		if is, err := os.Stat(file); err == nil && now.Sub(is.ModTime()) > time.Minute {
			_ = os.Remove(file) // what cannot be removed costs its room
		}
	}
}

// errBroken is wrapped by errors about a file that is of no use.
var errBroken = errors.New("it is of no use")

// Read gives what was kept, and when that was accepted. Without a file that is nothing.
// A file that is damaged or of another format is put aside, and the error says so.
func (s Store) Read(collection string) ([]*translate.Resource, time.Time, error) {
	file := s.file(collection)
	raw, err := s.bytes(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	var all []*translate.Resource
	var c content
	if err == nil {
		if c, all, err = decode(raw); err == nil && c.Collection != collection {
			err = fmt.Errorf("it is of collection %q: %w", c.Collection, errBroken)
		}
	}
	if errors.Is(err, errBroken) {
		aside := file + ".bad"
		if moved := os.Rename(file, aside); moved != nil {
			err = errors.Join(err, moved)
		} else {
			err = fmt.Errorf("%w; it is put aside as %s", err, aside)
		}
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read what proxies of collection %q accepted from %s: %w", collection, file, err)
	}
	return all, c.Accepted, nil
}

func (s Store) bytes(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(raw) > maxBytes {
		err = fmt.Errorf("it is larger than %d bytes: %w", maxBytes, errBroken)
	}
	return raw, err
}

// Any says whether something is kept of any collection.
func (s Store) Any() bool {
	files, err := filepath.Glob(filepath.Join(s.Dir, "*"+ending))
	return err == nil && len(files) > 0
}

func written(resources []*translate.Resource) []resource {
	out := make([]resource, len(resources))
	for i, r := range resources {
		out[i] = resource{Kind: r.Kind.String(), Name: r.Name, EDS: r.EDS, Body: r.Body}
		for _, x := range r.Refs {
			out[i].Refs = append(out[i].Refs, ref{x.Kind.String(), x.Name})
		}
	}
	return out
}

// encode puts a line with format and checksum before the content.
func encode(c content) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	raw := seal(body)
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", maxBytes)
	}
	return raw, nil
}

func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(fmt.Appendf(nil, "%s %d %s\n", magic, format, hex.EncodeToString(sum[:])), body...)
}

// decode is the other way. Whatever it is given, what it returns is public.
func decode(raw []byte) (c content, all []*translate.Resource, err error) {
	head, body, ok := bytes.Cut(raw, []byte("\n"))
	var version int
	var sum string
	if n, _ := fmt.Sscanf(string(head[:min(len(head), 128)]), magic+" %d %s", &version, &sum); !ok || n != 2 {
		return c, nil, fmt.Errorf("it does not begin like one: %w", errBroken)
	}
	if version != format {
		return c, nil, fmt.Errorf("its format is %d and not %d: %w", version, format, errBroken)
	}
	if is := sha256.Sum256(body); sum != hex.EncodeToString(is[:]) {
		return c, nil, fmt.Errorf("it is damaged (checksum): %w", errBroken)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, nil, fmt.Errorf("%w: %w", err, errBroken)
	}
	seen := map[translate.Ref]bool{}
	for _, r := range c.Resources {
		one, err := r.read()
		if err != nil {
			return c, nil, fmt.Errorf("%w: %w", err, errBroken)
		}
		id := translate.Ref{Kind: one.Kind, Name: one.Name}
		if one.Name == "" || seen[id] {
			return c, nil, fmt.Errorf("%s %q is there twice, or has no name: %w", one.Kind, one.Name, errBroken)
		}
		seen[id] = true
		public, err := Public(one)
		if err != nil {
			return c, nil, fmt.Errorf("%w: %w", err, errBroken)
		}
		if public != one {
			return c, nil, fmt.Errorf("%s %q holds what is never written: %w", one.Kind, one.Name, errBroken)
		}
		all = append(all, one)
	}
	return c, all, nil
}

var kinds = func() map[string]translate.Kind {
	m := map[string]translate.Kind{}
	for k := range translate.NumKinds {
		m[k.String()] = k
	}
	return m
}()

func (r resource) read() (*translate.Resource, error) {
	kind, ok := kinds[r.Kind]
	if !ok {
		return nil, fmt.Errorf("there is no kind %q", r.Kind)
	}
	out := &translate.Resource{Kind: kind, Name: r.Name, Body: r.Body, EDS: r.EDS}
	if out.Body == nil {
		out.Body = []byte{}
	}
	for _, x := range r.Refs {
		k, ok := kinds[x.Kind]
		if !ok {
			return nil, fmt.Errorf("there is no kind %q", x.Kind)
		}
		out.Refs = append(out.Refs, translate.Ref{Kind: k, Name: x.Name})
	}
	return out, nil
}
