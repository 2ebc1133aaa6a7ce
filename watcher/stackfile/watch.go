package stackfile

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/filewatch"
)

// Source watches stack files: a saved change is the next picture, a save that
// cannot be read keeps the last one and says why.
type Source struct {
	options Options
	// Settle is how long the files must be quiet before they are read again, so
	// that a save is read whole. 0 means 100 ms.
	Settle time.Duration
	// Poll is how often files are looked at where the system does not tell of
	// changes. 0 means 1 s.
	Poll time.Duration

	mu       sync.Mutex
	findings []Finding
}

// NewSource makes a source of stack files. Stdin is read once.
func NewSource(o Options) *Source { return &Source{options: o} }

// Name is "stackfile".
func (*Source) Name() string { return "stackfile" }

// Findings says what is wrong with the files as they were last read, whether or
// not that became a picture. It is up to date when an update is emitted.
func (s *Source) Findings() []Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.findings)
}

// Run reads the files and then reads them again whenever one of them changes, or
// one that they name. A file that cannot be read at the start ends it.
func (s *Source) Run(ctx context.Context, emit func(watcher.Update)) error {
	o := s.options
	if slices.Contains(o.Files, "-") && o.Stdin != nil {
		all, err := io.ReadAll(io.LimitReader(o.Stdin, maxFile+1))
		if err != nil {
			return fmt.Errorf("reading stdin: %w", err)
		}
		o.Stdin = bytes.NewReader(all)
		s.options.Stdin = o.Stdin
	}
	w := filewatch.New(cmp.Or(s.Settle, 100*time.Millisecond), cmp.Or(s.Poll, time.Second))
	defer w.Close()

	var last *watcher.Picture
	var lastErr error
	at := time.Now()
	for {
		w.Reset(o.Files)
		p, files, err := s.load(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && last == nil {
			return err
		}
		w.Also(files)
		switch {
		case err != nil:
			if lastErr == nil || lastErr.Error() != err.Error() {
				emit(watcher.Update{Picture: last, Err: err, At: at})
			}
		default:
			next, changes := watcher.Share(last, p)
			at = time.Now()
			if last == nil || lastErr != nil || !changes.Empty() {
				emit(watcher.Update{Picture: next, Changes: changes, Full: true, At: at})
			}
			last = next
		}
		lastErr = err
		if !w.Wait(ctx) {
			return nil
		}
	}
}

// load reads the files and gives the further files that they name.
func (s *Source) load(ctx context.Context) (*watcher.Picture, []string, error) {
	o := s.options
	if r, ok := o.Stdin.(*bytes.Reader); ok {
		r.Seek(0, io.SeekStart)
	}
	p, findings, files, err := load(ctx, o)
	s.mu.Lock()
	s.findings = findings
	s.mu.Unlock()
	return p, files, err
}
