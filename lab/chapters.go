package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/lab/load"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// everywhere does the same in every collection at once.
func (s *story) everywhere(do func(env string) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.addresses))
	for i, a := range s.addresses {
		wg.Go(func() { errs[i] = do(a.collection) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *story) everythingAnswers(ctx context.Context, st *step) error {
	m := s.traffic.mark()
	for _, r := range s.rows() {
		got, err := s.ask(ctx, r, r.host)
		if err != nil {
			return err
		}
		if got.status != 200 {
			return fmt.Errorf("%s answers %v", r.url(), got)
		}
	}
	if err := s.requests(ctx, m, uint64(2*s.o.Rate)); err != nil {
		return err
	}
	var all []load.Report
	for _, r := range s.traffic.since(m) {
		all = append(all, r)
	}
	var taken, asked uint64
	services := load.Merge(all...).Services
	for _, env := range s.collections() {
		taken += services[canary(env)]
		asked += services[canary(env)] + services[web(env)]
	}
	share := 100 * float64(taken) / float64(max(asked, 1))
	st.say("the canary has 1 of 5 replicas and took %.0f %% of %d requests to its host", share, asked)
	if share < 10 || share > 30 {
		return fmt.Errorf("the canary took %.0f %%, not about 20", share)
	}
	return nil
}

func (s *story) appears(ctx context.Context, st *step) error {
	if err := s.everywhere(func(env string) error {
		if err := s.src.Deploy(wikiSpec(env)); err != nil {
			return err
		}
		return s.src.Settled(ctx, wiki(env))
	}); err != nil {
		return err
	}
	var told []string
	for _, env := range s.collections() {
		// A moment of quiet: the control plane gathers what comes in quick succession.
		if err := s.requests(ctx, s.traffic.mark(), uint64(s.o.Rate/4)); err != nil {
			return err
		}
		host := "wiki." + env + ".localhost"
		got, err := ask(ctx, s.proxy(env), host, "/")
		if err != nil {
			return err
		}
		if got.reason != "unknown_host" {
			return fmt.Errorf("before it has labels, the wiki answers %v", got)
		}
		began := time.Now()
		if err := s.relabel(wiki(env), map[string]string{"lb.service_cluster": env, "lb.hosts": host, "lb.port": "3000"}); err != nil {
			return err
		}
		if _, err := until(ctx, s.proxy(env), host, "/", from(wiki(env))); err != nil {
			return err
		}
		told = append(told, fmt.Sprintf("%s in %s", milliseconds(time.Since(began)), env))
	}
	st.say("the wiki runs and gets three labels; from label to first 200: %s", list(told))
	return nil
}

// relabel adds labels to a service; an empty one is taken away.
func (s *story) relabel(id string, labels map[string]string) error {
	return s.src.Edit(id, func(spec *watcher.Service) {
		for k, v := range labels {
			if v == "" {
				delete(spec.Labels, k)
			} else {
				spec.Labels[k] = v
			}
		}
	})
}

func (s *story) startFirst(ctx context.Context, st *step) error {
	st.say("web: 4 tasks in each collection, two at a time; each new one starts before its old one leaves")
	return s.everywhere(func(env string) error {
		return s.src.Update(ctx, web(env), Rollout{StartFirst: true, Parallelism: 2})
	})
}

func (s *story) stopFirst(ctx context.Context, st *step) error {
	st.say("api: 3 tasks in each collection, one at a time; each old one leaves before its new one starts")
	return s.everywhere(func(env string) error {
		return s.src.Update(ctx, api(env), Rollout{Parallelism: 1})
	})
}

func (s *story) scales(ctx context.Context, st *step) error {
	st.say("web: from 4 to 8 to 2 to 4 tasks in each collection")
	return s.everywhere(func(env string) error {
		for _, n := range []uint64{8, 2, 4} {
			if err := s.src.Scale(ctx, web(env), n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *story) dies(ctx context.Context, st *step) error {
	var mu sync.Mutex
	dead := map[string]string{}
	err := s.everywhere(func(env string) error {
		name, err := s.src.Kill(ctx, api(env))
		mu.Lock()
		defer mu.Unlock()
		dead[env] = name
		return err
	})
	var names []string
	for _, env := range s.collections() {
		names = append(names, dead[env])
	}
	st.say("killed: %s; requests that a dead task had are sent to another one", list(names))
	return err
}

func (s *story) badLabel(ctx context.Context, st *step) error {
	env := s.collections()[0]
	host := "wiki." + env + ".localhost"
	if err := s.relabel(wiki(env), map[string]string{"lb.port": "3000/tcp"}); err != nil {
		return err
	}
	if _, err := until(ctx, s.proxy(env), host, "/", because(503, "not_built")); err != nil {
		return err
	}
	p, ok := s.problem(wiki(env), "lb.port")
	if !ok {
		return errors.New("its author was not told")
	}
	st.say("%s", tell(p))
	st.say("the wiki of %s answers 503 not_built, everything else as before", env)
	if err := s.relabel(wiki(env), map[string]string{"lb.port": "3000"}); err != nil {
		return err
	}
	took, err := until(ctx, s.proxy(env), host, "/", from(wiki(env)))
	st.say("the label is put right; first 200 after %s", milliseconds(took))
	return err
}

func (s *story) takesHost(ctx context.Context, st *step) error {
	env := s.collections()[len(s.addresses)-1]
	spec := pirateSpec(env)
	if err := s.src.Deploy(spec); err != nil {
		return err
	}
	defer s.src.Remove(spec.ID)
	// When its own host answers, its labels have had all the effect they will have.
	if _, err := until(ctx, s.proxy(env), "pirate."+env+".localhost", "/", from(spec.Name)); err != nil {
		return err
	}
	p, ok := s.problem(spec.Name, "lb.hosts")
	if !ok {
		return errors.New("the loser was not told")
	}
	st.say("%s", tell(p))
	if p.Winner == "" {
		return fmt.Errorf("the loser was not told whose host it is: %+v", p)
	}
	got, err := ask(ctx, s.proxy(env), "shop."+env+".localhost", "/")
	if err != nil {
		return err
	}
	if got.service != web(env) && got.service != canary(env) {
		return fmt.Errorf("shop.%s.localhost answers %v", env, got)
	}
	st.say("shop.%s.localhost still answers from its owner, %s", env, p.Winner)
	return nil
}

// problem finds what the control plane tells the author of a label.
func (s *story) problem(service, label string) (translate.Problem, bool) {
	for _, p := range s.built().Problems() {
		if p.Service == service && p.Label == label {
			return p, true
		}
	}
	return translate.Problem{}, false
}

// tell is a problem as its author reads it; one of no service is a collection's.
func tell(p translate.Problem) string {
	text := fmt.Sprintf("%s: %s", p.Severity, cmp.Or(p.Service, "collection "+p.Collection))
	if p.Label != "" {
		text += fmt.Sprintf(" %s=%s", p.Label, p.Value)
	}
	text += ": " + p.Reason
	if p.Hint != "" {
		text += " (" + p.Hint + ")"
	}
	return text
}

func (s *story) isolated(ctx context.Context, st *step) error {
	for i, asked := range s.addresses {
		dump, err := s.fleet[i].ConfigDump(ctx)
		if err != nil {
			return err
		}
		for _, other := range s.addresses {
			if other.collection == asked.collection {
				continue
			}
			got, err := ask(ctx, asked.http.String(), "shop."+other.collection+".localhost", "/")
			if err != nil {
				return err
			}
			if got.status != 503 || got.reason != "unknown_host" {
				return fmt.Errorf("%s answers %v for a host of %s", asked.collection, got, other.collection)
			}
			if strings.Contains(dump, "shop-"+other.collection) {
				return fmt.Errorf("the Envoy of %s knows of shop-%s", asked.collection, other.collection)
			}
		}
	}
	first, last := s.addresses[0].collection, s.addresses[len(s.addresses)-1].collection
	st.say("shop.%s.localhost asked at %s: 503 unknown_host; so in every direction", last, first)
	st.say("no Envoy's config dump names a service of another collection")
	return nil
}

func (s *story) sameHost(ctx context.Context, st *step) error {
	var told []string
	for _, a := range s.addresses {
		got, err := ask(ctx, a.http.String(), "shop.localhost", "/")
		if err != nil {
			return err
		}
		if got.status != 200 || got.service != web(a.collection) && got.service != canary(a.collection) {
			return fmt.Errorf("shop.localhost asked at %s: %v", a.collection, got)
		}
		told = append(told, fmt.Sprintf("%s at %s", got.service, a.collection))
	}
	st.say("shop.localhost is %s", list(told))
	return nil
}

func (s *story) restarted(ctx context.Context, st *step) error {
	m := s.traffic.mark()
	before, err := s.channels(ctx)
	if err != nil {
		return err
	}
	s.plane.kill()
	if err := s.requests(ctx, m, uint64(s.o.Rate)); err != nil {
		return err
	}
	while := s.traffic.since(m)
	if err := s.plane.again(ctx); err != nil {
		return err
	}
	began := time.Now()
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := await(wait, "the Envoys to come back", func() (bool, error) {
		now, err := s.channels(ctx)
		for _, c := range now {
			if !c.connected {
				return false, err
			}
		}
		return true, err
	}); err != nil {
		return err
	}
	back := time.Since(began)
	if err := s.requests(ctx, m, uint64(s.o.Rate/2)); err != nil { // whatever is sent again has come by then
		return err
	}
	after, err := s.channels(ctx)
	if err != nil {
		return err
	}
	var again, connections, so int
	for i := range after {
		again += after[i].received - before[i].received
		connections += after[i].connections - before[i].connections
		so += before[i].received
	}
	var alone uint64
	for _, r := range while {
		alone += r.Requests
	}
	st.say("%d requests were answered while there was none; all Envoys came back %s after it did", alone, milliseconds(back))
	if again > connections*newConnection {
		return fmt.Errorf("the proxies were sent what they had already: %d bytes", again)
	}
	st.say("sent again: nothing (%d bytes for %d new connections; until then they had been sent %d)", again, connections, so)

	// The new one is really in charge: a change reaches the proxies.
	env := s.collections()[0]
	host := "wiki." + env + ".localhost"
	if err := s.relabel(wiki(env), map[string]string{"lb.again.hosts": "again-" + host, "lb.again.port": "3000"}); err != nil {
		return err
	}
	took, err := until(ctx, s.proxy(env), "again-"+host, "/", from(wiki(env)))
	if err != nil {
		return err
	}
	st.say("a new label takes effect again: first 200 after %s", milliseconds(took))
	return s.relabel(wiki(env), map[string]string{"lb.again.hosts": "", "lb.again.port": ""})
}

// newConnection bounds the bytes that an Envoy receives of a control plane that has
// nothing to tell it: HTTP/2's own frames and an empty answer for each type. The
// smallest cluster is bigger.
const newConnection = 400

// channel is how an Envoy sees its control plane.
type channel struct {
	connected   bool
	received    int // bytes
	connections int // that were made, tries not counted
}

// channels asks every Envoy.
func (s *story) channels(ctx context.Context) ([]channel, error) {
	var all []channel
	for _, p := range s.fleet {
		text, err := p.Get(ctx, "/stats?filter=connected_state|cluster.xds.upstream_cx_")
		if err != nil {
			return nil, err
		}
		var c channel
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			n, err := strconv.Atoi(value)
			if err != nil {
				continue
			}
			switch name {
			case "control_plane.connected_state":
				c.connected = n == 1
			case "cluster.xds.upstream_cx_rx_bytes_total":
				c.received = n
			case "cluster.xds.upstream_cx_total":
				c.connections += n
			case "cluster.xds.upstream_cx_connect_fail":
				c.connections -= n
			}
		}
		all = append(all, c)
	}
	return all, nil
}
