// Package overview makes one picture of several replicas of a control plane: what
// they agree on, what each says of itself, and every proxy once, wherever it is connected.
package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate/labels"
)

// Overview is what «waggle status --format json» prints.
type Overview struct {
	// Wrong is what is wrong, a sentence each, the most urgent first; empty is good.
	Wrong       []string     `json:"wrong"`
	Replicas    []Replica    `json:"replicas"`
	Collections []Collection `json:"collections"`
	Proxies     []Proxy      `json:"proxies"`
	// Certificates are each once; where replicas differ, the one that ends first.
	Certificates []api.Certificate `json:"certificates"`
	Problems     []api.Problem     `json:"problems"`
}

// Replica is one control plane that was asked.
type Replica struct {
	API    string      `json:"api"`    // where it was asked
	Error  string      `json:"error"`  // why it does not answer; the rest is then empty
	Status *api.Status `json:"status"` // what it says of itself
}

// Collection is one collection in all replicas.
type Collection struct {
	api.Collection
	// Agree: all replicas serve the same. Generations has what each serves, by API address.
	Agree       bool              `json:"agree"`
	Generations map[string]string `json:"generations"`
	// Canaries and Quarantines are what each replica tries and does not serve, by API address.
	Canaries    map[string]api.Canary        `json:"canaries"`
	Quarantines map[string][]api.Quarantined `json:"quarantines"`
}

// Proxy is one Envoy, at the replica that it connected to last.
type Proxy struct {
	api.Proxy
	// Replicas are the API addresses of those that have it connected; the first has its newest stream.
	Replicas []string `json:"replicas"`
	// Connections above 1: it has just moved, or several proxies share a node ID.
	Connections int `json:"connections"`
}

// How long disagreement of replicas may last before it is told: they read the same
// Swarm, but not in the same instant.
const (
	settleTries = 5
	settleEvery = 500 * time.Millisecond
)

// answer is everything that one replica says.
type answer struct {
	api         string
	err         error
	status      api.Status
	collections api.Collections
	proxies     api.Proxies
	problems    api.Problems

	certificates api.Certificates
}

// Ask asks all replicas at once and merges what they say. The error is that none
// answered. As long as replicas disagree about what is served, they are asked again
// for a short time.
func Ask(ctx context.Context, replicas []*api.Client) (*Overview, error) {
	for try := 1; ; try++ {
		answers := askAll(ctx, replicas)
		if err := nobody(answers); err != nil {
			return nil, err
		}
		o := merge(answers)
		if o.agree() || try == settleTries {
			return o, nil
		}
		select {
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return o, nil
		}
	}
}

func askAll(ctx context.Context, replicas []*api.Client) []answer {
	answers := make([]answer, len(replicas))
	var wg sync.WaitGroup
	for i, c := range replicas {
		wg.Go(func() { answers[i] = ask(ctx, c) })
	}
	wg.Wait()
	return answers
}

func ask(ctx context.Context, c *api.Client) (a answer) {
	a.api = c.Address
	if a.status, a.err = c.Status(ctx); a.err != nil {
		return a
	}
	if a.collections, a.err = c.Collections(ctx); a.err != nil {
		return a
	}
	if a.proxies, a.err = c.Proxies(ctx); a.err != nil {
		return a
	}
	if a.problems, a.err = c.Problems(ctx); a.err != nil {
		return a
	}
	a.certificates, a.err = c.Certificates(ctx)
	return a
}

// nobody is the error that no replica answered.
func nobody(answers []answer) error {
	var errs []error
	for _, a := range answers {
		if a.err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("ask the control plane at %s: %w", a.api, a.err))
	}
	return errors.Join(errs...)
}

// merge makes one picture of what replicas said.
func merge(answers []answer) *Overview {
	o := &Overview{Wrong: []string{}, Collections: []Collection{}, Proxies: []Proxy{}, Certificates: []api.Certificate{}, Problems: []api.Problem{}}
	var said []answer // by different replicas
	known := map[string]bool{}
	for _, a := range answers {
		r := Replica{API: a.api}
		if a.err != nil {
			r.Error = a.err.Error()
		} else {
			r.Status = &a.status
			run := fmt.Sprint(a.status.Replica, a.status.Started.UnixNano())
			if known[run] {
				continue // two addresses of one replica
			}
			known[run] = true
			said = append(said, a)
		}
		o.Replicas = append(o.Replicas, r)
	}
	slices.SortStableFunc(o.Replicas, func(x, y Replica) int { return cmp.Compare(x.rank(), y.rank()) })
	o.problems(said)
	o.proxies(said)
	o.collections(said)
	o.certificates(said)
	o.Wrong = append(o.Wrong, o.wrong()...)
	return o
}

// rank puts replicas with something wrong first.
func (r Replica) rank() int {
	switch {
	case r.Status != nil && r.Status.Source.Stale:
		return 0
	case r.Status == nil:
		return 1
	case !r.Status.Ready || r.Status.Config.Error != "" || r.Status.Channel.Error != "":
		return 2
	}
	return 3
}

// problems unites the problems that replicas see: each once.
func (o *Overview) problems(said []answer) {
	seen := map[api.Problem]bool{}
	for _, a := range said {
		for _, p := range a.problems.Problems {
			if !seen[p] {
				seen[p] = true
				o.Problems = append(o.Problems, p)
			}
		}
	}
	slices.SortStableFunc(o.Problems, func(x, y api.Problem) int {
		return cmp.Or(cmp.Compare(severity(x), severity(y)), cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.Service, y.Service))
	})
}

func severity(p api.Problem) int {
	return slices.Index([]labels.Severity{labels.Error, labels.Warning, labels.Info}, p.Severity)
}

// certificates unites those of all replicas.
func (o *Overview) certificates(said []answer) {
	type place struct{ collection, source, name string }
	at := map[place]int{}
	for _, a := range said {
		for _, c := range a.certificates.Certificates {
			p := place{c.Collection, c.Source, c.Name}
			i, known := at[p]
			switch {
			case !known:
				at[p] = len(o.Certificates)
				o.Certificates = append(o.Certificates, c)
			case ends(c).Before(ends(o.Certificates[i])):
				o.Certificates[i] = c
			}
		}
	}
	slices.SortFunc(o.Certificates, func(x, y api.Certificate) int {
		return cmp.Or(ends(x).Compare(ends(y)), cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.Source, y.Source), cmp.Compare(x.Name, y.Name))
	})
}

// ends is when a certificate ends; zero where it is not served.
func ends(c api.Certificate) (t time.Time) {
	if c.NotAfter != nil {
		t = *c.NotAfter
	}
	return t
}

// proxies unites the proxies of all replicas by node ID. A proxy that has just moved
// from one replica to another is at both for a moment: its newest stream counts.
func (o *Overview) proxies(said []answer) {
	at := map[string]int{}
	for _, a := range said {
		for _, p := range a.proxies.Proxies {
			i, known := at[p.NodeID]
			if !known {
				at[p.NodeID] = len(o.Proxies)
				o.Proxies = append(o.Proxies, Proxy{Proxy: p, Replicas: []string{a.api}, Connections: 1})
				continue
			}
			have := &o.Proxies[i]
			have.Connections++
			others := slices.DeleteFunc(slices.Clone(have.Replicas), func(r string) bool { return r == a.api })
			if p.Connected.After(have.Connected) {
				have.Proxy, have.Replicas = p, append([]string{a.api}, others...)
			} else if have.Replicas[0] != a.api {
				have.Replicas = append(others, a.api)
			}
		}
	}
	slices.SortFunc(o.Proxies, func(x, y Proxy) int {
		return cmp.Or(cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.NodeID, y.NodeID))
	})
}

// collections unites the collections; of what replicas say differently, the one with
// the freshest picture counts.
func (o *Overview) collections(said []answer) {
	byName := map[string]*Collection{}
	newest := slices.Clone(said)
	slices.SortStableFunc(newest, func(x, y answer) int { return cmp.Compare(y.fresh(), x.fresh()) })
	for _, a := range newest {
		for _, c := range a.collections.Collections {
			if byName[c.Name] == nil {
				byName[c.Name] = &Collection{
					Collection: c, Generations: map[string]string{}, Canaries: map[string]api.Canary{}, Quarantines: map[string][]api.Quarantined{},
				}
				byName[c.Name].Proxies, byName[c.Name].Problems = api.ProxyCounts{}, api.Counts{}
				byName[c.Name].Canary, byName[c.Name].Quarantine = nil, []api.Quarantined{} // each replica's own
			}
			byName[c.Name].Generations[a.api] = c.Generation
			if c.Canary != nil {
				byName[c.Name].Canaries[a.api] = *c.Canary
			}
			if len(c.Quarantine) > 0 {
				byName[c.Name].Quarantines[a.api] = c.Quarantine
			}
		}
	}
	for _, p := range o.Proxies {
		if c := byName[p.Collection]; c != nil {
			c.Proxies.Connected++
			if p.Current {
				c.Proxies.Current++
			}
			if p.Rejecting() {
				c.Proxies.Rejecting++
			}
		}
	}
	for _, p := range o.Problems {
		if c := byName[p.Collection]; c != nil {
			c.Problems.Add(p.Severity)
		}
	}
	for _, c := range byName {
		c.Agree = len(c.Generations) == len(said)
		for _, g := range c.Generations {
			c.Agree = c.Agree && g == c.Generation
		}
		o.Collections = append(o.Collections, *c)
	}
	slices.SortFunc(o.Collections, func(x, y Collection) int { return cmp.Compare(x.Name, y.Name) })
}

// fresh orders answers by how much can be made of them.
func (a answer) fresh() int {
	switch {
	case !a.status.Ready:
		return 0
	case a.status.Source.Stale:
		return 1
	}
	return 2
}

func (o *Overview) agree() bool {
	return !slices.ContainsFunc(o.Collections, func(c Collection) bool { return !c.Agree })
}
