package translate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// TestBadInputCostsItsOwnService: what no stack file can carry (cases/diagnostics has
// the rest). A neighbour, older and of another owner, keeps every byte it has; the
// service is told.
func TestBadInputCostsItsOwnService(t *testing.T) {
	label := func(key, value string) serviceOption {
		return func(s *watcher.Service) { s.Labels[key] = value }
	}
	const p = "com.docker.lb."
	for name, c := range map[string]struct {
		options []serviceOption
		task    func(*watcher.Task)
		told    string
		answers string // what its host gives: a line of routeLines, "" where nobody has it
	}{
		"a NUL in a header":       {options: []serviceOption{label(p+"set_request_header.X-A", "a\x00b")}, told: "line break or NUL", answers: "/* -> bad:80"},
		"a line in a header":      {options: []serviceOption{label(p+"set_response_header.X-A", "a\r\nSet-Cookie: b")}, told: "line break or NUL", answers: "/* -> bad:80"},
		"a line in a header name": {options: []serviceOption{label(p+"set_request_header.X\r\nA", "b")}, told: "cannot stand in a name", answers: "/* -> bad:80"},
		"a line in a match":       {options: []serviceOption{label(p+"match_header.X-A", "a\nb")}, told: "line break or NUL", answers: "/* -> 503 not_built"},
		"bytes that are no text":  {options: []serviceOption{label(p+"context_root", "/\xff")}, told: "not UTF-8", answers: "/* -> 503 not_built"},
		"a key that is no text":   {options: []serviceOption{label(p+"retr\xffies", "1")}, told: "is not a known key", answers: "/* -> bad:80"},
		"a name that is no text":  {options: []serviceOption{func(s *watcher.Service) { s.Name = "bad\xff" }}, told: "no name that can be shown"},
		"no name":                 {options: []serviceOption{func(s *watcher.Service) { s.Name = "" }}, told: "no name that can be shown"},
		"a thousand routes": {options: []serviceOption{func(s *watcher.Service) {
			for i := range 1000 {
				s.Labels[fmt.Sprintf("%sr%d.hosts", p, i)] = fmt.Sprintf("r%d.bad.test", i)
			}
		}}, told: "has 1001 routes", answers: "/* -> 503 not_built"},
		"half a megabyte":                         {options: []serviceOption{label(p+"respond", "200,"+strings.Repeat("x", 512<<10))}, told: "bytes, and at most 65536 are read", answers: "/* -> 503 not_built"},
		"half a megabyte of something else":       {options: []serviceOption{label("org.example", strings.Repeat("x", 512<<10))}, answers: "/* -> bad:80"},
		"an address on loopback":                  {task: at("127.0.0.1"), told: "loopback", answers: "/* -> bad:80"},
		"the metadata service":                    {task: at("169.254.169.254"), told: "link-local", answers: "/* -> bad:80"},
		"no address":                              {task: func(t *watcher.Task) { t.Addresses = nil }, told: "no task has an address", answers: "/* -> bad:80"},
		"the address of the neighbour":            {task: at("10.0.1.1"), answers: "/* -> bad:80"},
		"an IPv6 address":                         {task: at("fd00::7"), answers: "/* -> bad:80"},
		"the neighbour's name":                    {options: []serviceOption{func(s *watcher.Service) { s.Name = "good" }}, told: "an older service has the same name"},
		"the neighbour's host":                    {options: []serviceOption{label(p+"hosts", "good.test")}, told: "good.test"},
		"the neighbour's host, otherwise written": {options: []serviceOption{label(p+"hosts", "GOOD.test.:80")}, told: "good.test"},
	} {
		t.Run(name, func(t *testing.T) {
			world := func(with bool) *Builder {
				w := newWorld()
				w.service("good", map[string]string{"hosts": "good.test", "port": "80"}, stack("theirs"))
				if with {
					s := w.service("bad", map[string]string{"hosts": "bad.test", "port": "80"}, append([]serviceOption{stack("ours")}, c.options...)...)
					for _, task := range w.Tasks[s.ID] {
						if c.task != nil {
							c.task(task)
						}
					}
				}
				return w.build(t, testConfig())
			}
			alone, beside := world(false).Resources("dev"), world(true)
			require.Equal(t, tableOf(alone)["good.test"].String(), tableOf(beside.Resources("dev"))["good.test"].String())
			for _, k := range []Kind{Cluster, Endpoints} {
				require.Equal(t, alone[k]["good:80"].Message, beside.Resources("dev")[k]["good:80"].Message)
			}
			require.Equal(t, c.answers, strings.Join(routeLines(beside, "dev", "bad.test"), "\n"))
			var told string
			for _, p := range beside.Problems() {
				require.NotEqual(t, "theirs", p.Service)
				require.Equal(t, strings.ToValidUTF8(p.Label+p.Value+p.Reason+p.Hint, "?"), p.Label+p.Value+p.Reason+p.Hint)
				require.NotContains(t, p.Label+p.Value+p.Reason+p.Hint, "\n")
				told += p.Reason + "\n"
			}
			require.Contains(t, told, c.told)
			require.Equal(t, c.told == "", told == "")
		})
	}
}

// at gives a task one address on each of its networks.
func at(addr string) func(*watcher.Task) {
	return func(t *watcher.Task) {
		for i := range t.Addresses {
			t.Addresses[i].Addr = netip.MustParseAddr(addr)
		}
	}
}

// TestRandomLabelsAreToldTheWayOut: whatever is wrong, the service is told what to do
// about it. A conflict has its winner, and a note costs nothing.
func TestRandomLabelsAreToldTheWayOut(t *testing.T) {
	for seed := range uint64(40) {
		s := newSwarm(seed)
		for range 10 {
			s.next()
			s.step()
		}
		for _, p := range Build(s.input()).Problems() {
			require.NotEmpty(t, p.Reason)
			if p.Severity != labels.Info {
				require.NotEmpty(t, p.Hint, "seed %d: %s %s: %s", seed, p.Severity, p.Label, p.Reason)
			}
		}
	}
}
