// Package stackfile reads what runs from stack files instead of a Swarm: services
// as they would be deployed, without tasks.
//
// Each file is a stack of its own. The Compose parser is used for the syntax
// alone; what it does beyond what `docker stack deploy` does (profiles, .env,
// builds, includes, the project's name) is switched off, and where that matters
// for routing, a Finding says so.
package stackfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/waggle-lb/waggle/watcher"
)

// Options say what to load.
type Options struct {
	// Files in the order in which they count; "-" is Stdin.
	Files []string
	// Stack names the stack of every file. Empty: the file's own `name:`, else its
	// base name without the extension ("stack" for stdin).
	Stack string
	// Plain says whether the files are Compose projects for a plain Docker, where
	// labels of containers count, or stacks of a Swarm; nil: each file tells (isPlain).
	Plain *bool
	// Env gives the variables of ${VAR:-default}. The process's own environment and
	// .env files are not looked at.
	Env map[string]string
	// Stdin is read to its end where a file is "-".
	Stdin io.Reader
}

// Severity is how bad a finding is.
type Severity string

// The severities, as problems everywhere have them.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Finding is something about a stack file that its author should know.
type Finding struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`    // from 1; 0 where the parser knows none
	Service  string   `json:"service,omitempty"` // full name, "<stack>_<service>"; empty where it is about the file
	Reason   string   `json:"reason"`            // one sentence
	Hint     string   `json:"hint,omitempty"`    // the way out
}

// String is the finding as one line: "stack.yml:7: web: reason; hint".
func (f Finding) String() string {
	s := position(f.File, f.Line) + ": "
	if f.Service != "" {
		s += f.Service + ": "
	}
	s += f.Reason
	if f.Hint != "" {
		s += "; " + f.Hint
	}
	return s
}

// FileError says that a file could not be read as a stack file at all.
type FileError struct {
	File   string
	Line   int // 0 where nothing is known
	Reason string
	Hint   string
	Err    error // the cause, where there is one
}

// Error is one sentence with the place and the way out.
func (e *FileError) Error() string {
	return Finding{File: e.File, Line: e.Line, Reason: e.Reason, Hint: e.Hint}.String()
}

// Unwrap gives the cause.
func (e *FileError) Unwrap() error { return e.Err }

func position(file string, line int) string {
	if file == "-" {
		file = "stdin"
	}
	if line > 0 {
		return fmt.Sprintf("%s:%d", file, line)
	}
	return file
}

// maxFile is the most that a stack file may have; maxConfig is Swarm's own limit for a config.
const (
	maxFile   = 16 << 20
	maxConfig = 1000 << 10
)

// Load reads the files into one static picture.
//
// The picture always holds what could be read. The error joins one *FileError for
// each file that could not be read at all; what is wrong with a part of a file is
// a finding, and costs that part.
func Load(ctx context.Context, o Options) (*watcher.Picture, []Finding, error) {
	p, findings, _, err := load(ctx, o)
	return p, findings, err
}

// load is Load and the further files that were looked at.
func load(ctx context.Context, o Options) (*watcher.Picture, []Finding, []string, error) {
	l := newAssembly(o.Stack, o.Plain)
	var errs []error
	var stdin []byte
	for i, name := range o.Files {
		if err := ctx.Err(); err != nil {
			return nil, nil, nil, err
		}
		var content []byte
		var err error
		switch {
		case name != "-":
			content, err = readFile(name)
		case stdin != nil: // named twice: a stream can be read only once
			content = stdin
		default:
			content, err = readStdin(o.Stdin)
			stdin = content
		}
		if err == nil {
			err = l.file(ctx, i, name, content, o.Env)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	p, findings := l.picture()
	return p, findings, l.data, errors.Join(errs...)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, &FileError{File: name, Reason: "is a directory, not a stack file", Hint: "name the file in it, for example " + filepath.Join(name, "stack.yml")}
	}
	return readAll(name, f)
}

func readStdin(r io.Reader) ([]byte, error) {
	if r == nil {
		r = strings.NewReader("")
	}
	return readAll("-", r)
}

func readAll(name string, r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, unreadable(name, err)
	}
	if len(content) > maxFile {
		return nil, &FileError{File: name, Reason: fmt.Sprintf("is larger than %d MiB", maxFile>>20), Hint: "this is not a stack file"}
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, &FileError{File: name, Reason: "is empty", Hint: "a stack file has at least `services:`"}
	}
	return content, nil
}

func unreadable(name string, err error) *FileError {
	var pe *os.PathError
	reason, hint := err.Error(), "check the path and its permissions"
	if errors.As(err, &pe) {
		reason = pe.Err.Error()
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		hint = "check the path; it is taken from the current directory"
	case errors.Is(err, os.ErrPermission):
		hint = "make the file readable for this user"
	}
	return &FileError{File: name, Reason: "cannot be read: " + reason, Hint: hint, Err: err}
}

// stackName is the name of the stack in a file.
func stackName(option, inFile, file string) string {
	switch {
	case option != "":
		return option
	case inFile != "":
		return inFile
	case file == "-":
		return "stack"
	}
	base := filepath.Base(file)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); name != "" {
		return name
	}
	return strings.TrimPrefix(base, ".")
}
