package admin

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
)

// patience is how long a request waits for the loop.
const patience = 5 * time.Second

// view is what one build made. It is immutable; answers are made from it without the loop.
type view struct {
	status    control.Status
	services  []translate.ServiceView
	resources map[string]translate.Resources
	served    map[string]served
	held      []xds.Quarantined
	rejected  []translate.Problem // held, as problems
	problems  []translate.Problem // of labels, and rejected
}

// served is what proxies of one collection get.
type served struct {
	generation string
	counts     map[string]int
}

// view gives what the newest build made. The loop is asked only when there was one
// since, and only copies: rendering and counting happen here.
func (a *API) view(r *http.Request) (*view, error) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	select {
	case <-a.asking:
	case <-ctx.Done():
		return nil, refusal{http.StatusServiceUnavailable, "the control plane is busy; ask again"}
	}
	defer func() { a.asking <- struct{}{} }()
	held := a.o.Server.Quarantine()
	if v, s := a.latest.Load(), a.o.Loop.Status(); v != nil && v.status.Builds == s.Builds && v.status.Config == s.Config {
		if len(held) == 0 && len(v.held) == 0 {
			return v, nil
		}
		now := *v // what proxies reject comes without a build
		now.serve(a.o.Server, held)
		return &now, nil
	}
	v := &view{resources: map[string]translate.Resources{}}
	err := a.o.Loop.Query(ctx, func(b *translate.Builder) {
		v.status = a.o.Loop.Status() // on the loop's goroutine: of this very build
		v.services = b.Services()
		for _, name := range v.names() {
			v.resources[name] = b.Resources(name)
		}
	})
	switch {
	case errors.Is(err, control.ErrStopped):
		return nil, refusal{http.StatusServiceUnavailable, "the control plane is stopping"}
	case err != nil:
		return nil, refusal{http.StatusServiceUnavailable, "the control plane is busy; ask again"}
	}
	v.serve(a.o.Server, held)
	a.latest.Store(v)
	return v, nil
}

// serve fills in what becomes of the build at the proxies; held was asked for before.
func (v *view) serve(s Server, held []xds.Quarantined) {
	v.held, v.served = held, map[string]served{}
	for _, name := range v.names() {
		v.served[name] = summarize(s.Snapshot(name))
	}
	v.rejected = rejections(held, v.services)
	v.problems = withRejections(v.status.Problems, v.rejected)
}

// names are the collections of the configuration in force.
func (v *view) names() []string {
	if v.status.Config == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(v.status.Config.Collections))
}

// has says that a collection exists, or what there is instead.
func (v *view) has(collection string) error {
	if v.status.Config == nil || v.status.Config.Collections[collection] == nil {
		return notFound("collection %q is unknown: there are %s", collection, strings.Join(v.names(), ", "))
	}
	return nil
}

// summarize counts what a collection is served, and names it by its content: a sum
// over resources, so that the order does not matter.
func summarize(snapshot map[translate.Kind]map[string]string) served {
	s := served{counts: map[string]int{}}
	for kind := range translate.NumKinds {
		s.counts[kind.String()] = len(snapshot[kind])
	}
	if snapshot == nil {
		return s
	}
	var sum uint64
	var buf []byte
	for kind, versions := range snapshot {
		for name, version := range versions {
			buf = append(append(append(append(buf[:0], byte(kind)), name...), 0), version...)
			mark := sha256.Sum256(buf)
			sum += binary.BigEndian.Uint64(mark[:])
		}
	}
	s.generation = fmt.Sprintf("%016x", sum)
	return s
}
