package translate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/watcher"
)

// FuzzLabels: whatever one service says, everything built is valid, closed and
// the same when built again, and its neighbour's answers stay.
func FuzzLabels(f *testing.F) {
	for _, seed := range []string{
		"com.docker.lb.hosts=a.test,b.test\ncom.docker.lb.port=80",
		"com.docker.lb.hosts=*.test\nlb.port=80\nlb.context_root=/app\nlb.context_root_rewrite=true",
		"lb.api.hosts=a.test\nlb.api.port=80\nlb.api.context_root=/%2f..\nlb.default_backend=true\nlb.port=0",
		"lb.hosts=*\nlb.port=81\nlb.weight=4294967295\nlb.max_fails=99999999999",
		"lb.hosts=xn--a.test\nlb.network=bridge\nlb.backend_mode=vip\nlb.connect_timeout=9999999h",
		"lb.A.b.hosts=n.test\nlb.A.b.port=80\nlb.hosts=n.test\nlb.path=/x\nlb.timeout=2562047h47m16s",
		"lb.\xff.hosts=n.test\nlb.\xff.port=80\nlb.hosts=\xff.test\nlb.context_root=/\xff\nlb.port=80",
		"com.docker.lb.service_cluster=prod\nlb.hosts=p.test\nlb.port=80\nwaggle.fleet=dev\ncom.docker.ucp.access.label=/x",
		"lb.hosts=n.test\nlb.port=80\nlb.idle_timeout=1ns\nlb.fail_timeout=1ns\nlb.retries=4294967295",
	} {
		f.Add(seed, "fuzz_web")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		w, cfg := newWorld(), testConfig()
		neighbour := map[string]string{"hosts": "n.test", "port": "80", "app.hosts": "n.test", "app.port": "80", "app.context_root": "/app"}
		w.service("n_web", neighbour, stack("n"))
		before := routeLines(Build(Input{Picture: w.Picture, Config: cfg}), "dev", "n.test")
		s := w.service(name, nil, stack("fuzz"))
		for _, line := range strings.Split(text, "\n") {
			if k, v, ok := strings.Cut(line, "="); ok {
				s.Labels[k] = v
			}
		}
		s.Labels[watcher.StackLabel] = "fuzz"
		b := Build(Input{Picture: w.Picture, Config: cfg})
		requireClosed(t, b, cfg)
		if diff := cmp.Diff(everything(b, cfg), everything(Build(Input{Picture: w.Picture, Config: cfg}), cfg)); diff != "" {
			t.Fatal("built twice, two results:\n" + diff)
		}
		after := routeLines(b, "dev", "n.test")
		for _, line := range before {
			if !strings.Contains(strings.Join(after, "\n"), line) {
				t.Fatalf("the neighbour lost %q:\n%s", line, strings.Join(after, "\n"))
			}
		}
	})
}
