package translate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

func TestWhichCollection(t *testing.T) {
	for name, c := range map[string]struct {
		labels      map[string]string
		constraints []string
		mode        watcher.Mode
		noDefault   bool
		want        string // "": nowhere
		severity    labels.Severity
		reason      string
	}{
		"service_cluster":                        {labels: map[string]string{"service_cluster": "prod"}, want: "prod"},
		"service_cluster before access label":    {labels: map[string]string{"service_cluster": "test", labels.AccessLabel: "/elsewhere"}, want: "test"},
		"unknown service_cluster ends it":        {labels: map[string]string{"service_cluster": "staging"}, severity: labels.Error, reason: "no such collection"},
		"two in service_cluster":                 {labels: map[string]string{"service_cluster": "dev,prod"}, severity: labels.Error, reason: "exactly one collection"},
		"access label":                           {labels: map[string]string{labels.AccessLabel: "/prod"}, want: "prod"},
		"access label below":                     {labels: map[string]string{labels.AccessLabel: "/prod/team/a"}, want: "prod"},
		"access label beside":                    {labels: map[string]string{labels.AccessLabel: "/production"}, want: "dev"},
		"the longest access label":               {labels: map[string]string{labels.AccessLabel: "/prod/test/x"}, want: "test"},
		"access label before constraint":         {labels: map[string]string{labels.AccessLabel: "/prod"}, constraints: []string{"node.labels.collection==test"}, want: "prod"},
		"access label of two":                    {labels: map[string]string{labels.AccessLabel: "/both"}, severity: labels.Error, reason: "two collections: prod, test"},
		"refused although service_cluster":       {labels: map[string]string{"service_cluster": "prod", labels.AccessLabel: "/prod/test"}, severity: labels.Error, reason: "collection prod refuses"},
		"another's label, but no label required": {labels: map[string]string{"service_cluster": "dev", labels.AccessLabel: "/prod"}, want: "dev"},
		"an access label of nobody":              {labels: map[string]string{"service_cluster": "prod", labels.AccessLabel: "/else"}, want: "prod"},
		"constraint":                             {constraints: []string{"node.role == worker", "node.labels.collection  ==test"}, want: "test"},
		"constraints of two":                     {constraints: []string{"node.labels.collection==test", "node.labels.collection==prod"}, severity: labels.Error, reason: "two collections: prod, test"},
		"constraint chooses who refuses":         {constraints: []string{"node.labels.collection==prod"}, labels: map[string]string{labels.AccessLabel: "/none"}, want: "prod"},
		"the default":                            {want: "dev"},
		"no default":                             {noDefault: true, severity: labels.Warning, reason: "not published"},
		"a job":                                  {mode: watcher.ReplicatedJob, severity: labels.Warning, reason: "a job"},
		"a global job":                           {mode: watcher.GlobalJob, severity: labels.Warning, reason: "a job"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Collections["test"] = &config.Collection{Name: "test", Bind: "0.0.0.0", HTTPPort: 80,
				AccessLabels: []string{"/prod/test", "/both"}, MatchConstraints: []string{"node.labels.collection == test"}}
			cfg.Collections["prod"].AccessLabels = []string{"/prod", "/both"}
			cfg.Collections["prod"].MatchConstraints = []string{"node.labels.collection==prod"}
			cfg.Collections["dev"].Default = !c.noDefault
			w := newWorld()
			lbls := map[string]string{"hosts": "a.test", "port": "80"}
			for k, v := range c.labels {
				lbls[k] = v
			}
			w.service("web", lbls, func(s *watcher.Service) {
				s.Constraints = c.constraints
				if c.mode != "" {
					s.Mode = c.mode
				}
			})
			b := w.build(t, cfg)
			for coll := range cfg.Collections {
				if coll == c.want {
					require.Contains(t, hostsOf(b, coll), "a.test")
				} else {
					require.NotContains(t, hostsOf(b, coll), "a.test")
				}
			}
			if c.want == "" {
				p := requireProblem(t, b, "web", c.severity, c.reason)
				require.Empty(t, p.Collection)
			}
		})
	}
}

func TestWhatSaysNothingToUsIsSilent(t *testing.T) {
	w := newWorld()
	w.service("db", nil)
	w.service("job", nil, func(s *watcher.Service) { s.Mode = watcher.ReplicatedJob })
	cfg := testConfig()
	cfg.Collections["dev"].Default = false
	b := w.build(t, cfg)
	require.Empty(t, b.Problems())
	require.Empty(t, b.Services())
	require.Equal(t, []string{"*"}, hostsOf(b, "dev"))
	require.Equal(t, []string{"/* -> 503 unknown_host"}, routeLines(b, "dev", "*"))
}

func TestMisplacedLabelsAreTold(t *testing.T) {
	w := newWorld()
	w.service("web", nil, func(s *watcher.Service) { s.ContainerLabels = map[string]string{"com.docker.lb.hosts": "a.test"} })
	b := w.build(t, testConfig())
	requireProblem(t, b, "web", labels.Warning, "reach the container")
}

// What is in prod is in none of dev's resources, and the other way round; the
// same host in two collections is two services.
func TestCollectionsAreApart(t *testing.T) {
	w := newWorld()
	w.service("d_web", map[string]string{"hosts": "same.test,d.test", "port": "80"}, stack("d"))
	w.service("p_web", map[string]string{"hosts": "same.test,p.test", "port": "80", "service_cluster": "prod"}, stack("p"), on("prod-edge"))
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	for coll, own := range map[string]string{"dev": "d", "prod": "p"} {
		require.Equal(t, []string{own + ".test", "same.test", "*"}, hostsOf(b, coll))
		require.Equal(t, []string{own + "_web:80"}, names(b, coll, Cluster))
		require.Equal(t, []string{own + "_web:80"}, names(b, coll, Endpoints))
		require.Equal(t, []string{"/* -> " + own + "_web:80"}, routeLines(b, coll, "same.test"))
	}
}

func TestTwoServicesOfOneName(t *testing.T) {
	w := newWorld()
	w.service("web", map[string]string{"hosts": "a.test", "port": "80"})
	w.service("web", map[string]string{"hosts": "b.test", "port": "80", "service_cluster": "prod"})
	b := w.build(t, testConfig())
	require.Equal(t, []string{"a.test", "*"}, hostsOf(b, "dev"))
	require.Equal(t, []string{"*"}, hostsOf(b, "prod"))
	requireProblem(t, b, "web", labels.Error, "same name")
}
