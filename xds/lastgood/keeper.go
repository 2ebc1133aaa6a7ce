// Package lastgood keeps on disk what proxies accepted last, without anything secret, and
// offers it to new proxies when a control plane starts while nobody can tell it what runs.
package lastgood

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
)

// Server is what proxies are connected to. *xds.Server is one.
type Server interface {
	Collections() (published, waiting []string)
	Accepted(collection, have string) (all []xds.Kept, generation string)
	Offer(d translate.Delta, at time.Time) (bool, error)
}

// Options are what a Keeper may be told; but for Dir and Server the zero value is right.
type Options struct {
	Dir    string // of the files; it need not be there
	Server Server
	Log    *slog.Logger // nil: nothing is logged
	// Moment is how long the first complete picture may take before what is on disk is
	// offered. Default 3 s.
	Moment time.Duration
	// Every is how often it is looked whether there is something new to write. Default
	// 10 s, and more where writing takes long.
	Every time.Duration
	Now   func() time.Time
}

// Keeper writes what is accepted and offers what was.
type Keeper struct {
	o     Options
	store Store
	state map[string]*kept
	wrong string // the newest error of writing, told once
	took  time.Duration
}

// kept is what is on disk of a collection, and which of its resources are how.
type kept struct {
	generation string
	public     map[translate.Ref]public
}

type public struct {
	version string
	is      *translate.Resource // nil: left out
}

// New makes a keeper; nothing happens before Run.
func New(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Moment <= 0 {
		o.Moment = 3 * time.Second
	}
	if o.Every <= 0 {
		o.Every = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Keeper{o: o, store: Store{o.Dir}, state: map[string]*kept{}}
}

// Run offers what is on disk if nothing is published within a moment, and writes what is
// accepted from then on, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	k.store.sweep(k.o.Now())
	timer := time.NewTimer(k.o.Moment)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		k.offer()
		k.Save()
		timer.Reset(max(k.o.Every, 50*k.took))
	}
}

// offer gives what is on disk to collections that nobody has told anything about.
func (k *Keeper) offer() {
	_, waiting := k.o.Server.Collections()
	for _, name := range waiting {
		resources, at, err := k.store.Read(name)
		if err != nil {
			k.o.Log.Warn("what proxies accepted last cannot be offered to new ones", "collection", name, "error", err)
			continue
		}
		if len(resources) == 0 {
			continue
		}
		d := translate.Delta{Collection: name}
		for _, r := range resources {
			d.Changes = append(d.Changes, translate.Change{Kind: r.Kind, Name: r.Name, Resource: r})
		}
		offered, err := k.o.Server.Offer(d, at)
		switch {
		case err != nil:
			k.o.Log.Warn("what proxies accepted last cannot be offered to new ones", "collection", name, "error", err)
		case offered:
			k.o.Log.Warn("there is no complete picture yet: new proxies get what was accepted last, without what needs secrets; the others keep what they have",
				"collection", name, "accepted", at, "resources", len(resources))
		}
	}
}

// Save writes what has been accepted since it was last written. It must not be called
// while Run runs.
func (k *Keeper) Save() {
	start := k.o.Now()
	published, _ := k.o.Server.Collections()
	wrong := ""
	for _, name := range published {
		if err := k.save(name); err != nil {
			wrong = err.Error()
			if wrong != k.wrong {
				k.o.Log.Warn("what proxies accepted is not kept; a control plane that starts while Docker is away has nothing newer to offer", "error", err)
			}
		}
	}
	for name := range k.state {
		if !slices.Contains(published, name) {
			delete(k.state, name)
		}
	}
	k.wrong, k.took = wrong, k.o.Now().Sub(start)
}

func (k *Keeper) save(name string) error {
	was := k.state[name]
	if was == nil {
		was = &kept{}
	}
	all, generation := k.o.Server.Accepted(name, was.generation)
	if generation == was.generation {
		return nil
	}
	is := &kept{generation, make(map[translate.Ref]public, len(all))}
	var resources []*translate.Resource
	for i := range all {
		r, version := all[i].Resource, all[i].Version
		ref := translate.Ref{Kind: r.Kind, Name: r.Name}
		p, known := was.public[ref]
		if !known || p.version != version {
			one, err := Public(&r)
			if err != nil { // it is not written, like all that nobody can look into
				k.o.Log.Warn("a resource is not kept", "collection", name, "error", err)
			}
			p = public{version, one}
		}
		is.public[ref] = p
		if p.is != nil {
			resources = append(resources, p.is)
		}
	}
	if err := k.store.write(name, k.o.Now(), resources); err != nil {
		return err
	}
	k.state[name] = is
	return nil
}
