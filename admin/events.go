package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
)

const (
	maxReaders = 64               // of events at once
	backlog    = 256              // steps that a reader may be behind
	writeTime  = 10 * time.Second // that one event may take to be written
	heartbeat  = 15 * time.Second // so that whatever is between sees life
)

// hub hands the loop's steps to readers. It never waits for one: who is too far
// behind is dropped.
type hub struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
}

type reader struct{ steps chan control.Step } // closed when the reader is dropped

func (h *hub) tell(s control.Step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		select {
		case r.steps <- s:
		default:
			delete(h.readers, r)
			close(r.steps)
		}
	}
}

// join adds a reader, nil if there are too many.
func (h *hub) join() *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers) >= maxReaders {
		return nil
	}
	r := &reader{make(chan control.Step, backlog)}
	h.readers[r] = struct{}{}
	return r
}

func (h *hub) leave(r *reader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, r)
}

// events is GET /api/v1/events: server-sent events, from now on until the reader or
// the control plane goes.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	if _, err := one(r); err != nil {
		refuse(w, err)
		return
	}
	me := a.steps.join()
	if me == nil {
		refuse(w, refusal{http.StatusServiceUnavailable, fmt.Sprintf("%d readers of events are enough", maxReaders)})
		return
	}
	defer a.steps.leave(me)
	w.Header().Set("Content-Type", "text/event-stream")
	s := &sender{w: w, flush: http.NewResponseController(w)}
	known := seenIn(a.look())
	s.event(api.EventStatus, a.Status())
	look, beat := time.NewTicker(a.o.Look), time.NewTicker(heartbeat)
	defer look.Stop()
	defer beat.Stop()
	for s.err == nil {
		select {
		case <-r.Context().Done():
			return
		case step, ok := <-me.steps:
			if !ok {
				s.event(api.EventDropped, api.FaultEvent{At: a.now(), Error: "you read too slowly and missed something; connect again"})
				return
			}
			s.step(step)
		case <-look.C:
			now := seenIn(a.look())
			s.difference(known, now, a.now())
			known = now
		case <-beat.C:
			s.write(": alive\n\n")
		}
	}
}

// sender writes events until one fails.
type sender struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	err   error
}

func (s *sender) write(text string) {
	if s.err != nil {
		return
	}
	_ = s.flush.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer has one
	if _, s.err = fmt.Fprint(s.w, text); s.err == nil {
		s.err = s.flush.Flush()
	}
}

func (s *sender) event(name string, v any) {
	data, err := json.Marshal(v) // one line: JSON escapes line ends
	if err != nil {
		s.err = err
		return
	}
	s.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, data))
}

func (s *sender) step(step control.Step) {
	switch step.Kind {
	case control.BuildStep:
		kind := "endpoints"
		if step.Structure {
			kind = "structure"
		}
		changed := step.Changed
		if changed == nil {
			changed = map[string]int{}
		}
		s.event(api.EventBuild, api.BuildEvent{At: step.At, Kind: kind, Collections: changed})
	case control.SourceStep:
		s.event(api.EventSource, api.FaultEvent{At: step.At, Error: text(step.Err)})
	case control.ConfigStep:
		s.event(api.EventConfig, api.FaultEvent{At: step.At, Error: text(step.Err)})
	}
}

// stream is one connection of one proxy.
type stream struct {
	nodeID, address string
	since           time.Time
}

func seenIn(proxies []xds.Proxy) map[stream]xds.Proxy {
	out := make(map[stream]xds.Proxy, len(proxies))
	for _, p := range proxies {
		out[stream{p.NodeID, p.Address, p.Connected}] = p
	}
	return out
}

// difference tells what proxies did between two looks at them.
func (s *sender) difference(was, is map[stream]xds.Proxy, now time.Time) {
	about := func(p xds.Proxy) api.ProxyEvent {
		return api.ProxyEvent{At: now, NodeID: p.NodeID, Collection: p.Collection, Instance: p.Instance, Version: p.Version, Address: p.Address}
	}
	for k, p := range was {
		if _, still := is[k]; !still {
			s.event(api.EventProxyDisconnected, about(p))
		}
	}
	for k, p := range is {
		old, known := was[k]
		if !known {
			e := about(p)
			e.At = p.Connected
			s.event(api.EventProxyConnected, e)
		}
		var before [translate.NumKinds]time.Time
		for _, kind := range old.Kinds {
			if kind.NACK != nil {
				before[kind.Kind] = kind.NACK.At
			}
		}
		for _, kind := range p.Kinds {
			if kind.NACK != nil && !kind.NACK.At.Equal(before[kind.Kind]) {
				e := about(p)
				e.At, e.NACK = kind.NACK.At, nack(kind)
				s.event(api.EventProxyRejected, e)
			}
		}
	}
}
