package explain

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// What each example of the label language gives, which lab sees of a real Envoy, is
// what Explain says of its stack file.
func TestCasesAreExplained(t *testing.T) {
	all, err := cases.Load("../cases")
	require.NoError(t, err)
	explained := 0
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			made, env, err := certs.For(c, dir)
			require.NoError(t, err)
			ca, err := made.Authority()
			require.NoError(t, err)
			p, _, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{c.File}, Stack: c.Stack, Env: env})
			require.NoError(t, err)
			cfg := configOf(t, c, dir)
			material, errs := secrets.OfFiles(cfg, p)
			require.Empty(t, errs)
			b := translate.Build(translate.Input{Picture: p, Config: cfg, Material: material.WithLocal(ca).With(cases.Answers())})
			res := b.Resources("default")
			for _, r := range c.Requests {
				header := http.Header{}
				for name, value := range r.Headers {
					header.Set(name, value)
				}
				a, err := Explain(res, Request{Collection: "default", Method: r.Method(), URL: r.URL(), Header: header}, b.Problems())
				require.NoError(t, err, r.Ask)
				if r.SNI != "" {
					continue // a client that asks for one host and means another
				}
				if r.Gives.Refused && a.Action == Reject {
					require.Zero(t, a.Status, "%s: %v", r.Ask, a.Because)
					explained++
					continue
				}
				if depends(a, r) {
					continue
				}
				explained++
				require.Equal(t, r.Gives.Reason, a.Reason, "%s: %v", r.Ask, a.Because)
				if a.Status != 0 {
					require.Equal(t, r.Gives.Status, a.Status, "%s: %v", r.Ask, a.Because)
				}
				if r.Gives.Location != "" {
					require.Equal(t, r.Gives.Location, a.Location, "%s: %v", r.Ask, a.Because)
				}
				if r.Gives.Service != "" {
					require.Equal(t, Forward, a.Action, "%s: %v", r.Ask, a.Because)
					services := []string{a.Service}
					for _, s := range a.Shares {
						services = append(services, s.Service)
					}
					require.Contains(t, services, c.Stack+"_"+r.Gives.Service, "%s: %v", r.Ask, a.Because)
				}
				if seen := r.Gives.Seen.Path; seen != "" {
					path := a.Request.Path
					if a.Request.Upstream != "" {
						path = a.Request.Upstream
					}
					require.Equal(t, seen, bare(path), "%s: %v", r.Ask, a.Because)
				}
			}
		})
	}
	require.Greater(t, explained, 200)
}

// depends reports whether the answer depends on more than the way of the request: a
// guard that it may not pass, a task that fails.
func depends(a *Answer, r cases.Request) bool {
	if slices.ContainsFunc(a.Because, func(s string) bool { return strings.Contains(s, "the request must pass") }) {
		return true
	}
	if r.Gives.Refused { // for what the client has not: a certificate, a version
		return slices.ContainsFunc(a.Because, func(s string) bool { return strings.Contains(s, "with a certificate of") }) || r.TLS != "" || r.Trust != ""
	}
	return a.Action == Forward && a.Status == 0 && r.Gives.Service == ""
}

func configOf(t *testing.T, c cases.Case, dir string) *config.Config {
	t.Helper()
	if len(c.Config) == 0 {
		return config.ForCollections(nil)
	}
	collection := c.ConfigIn(dir)
	collection["default"] = true
	raw, err := yaml.Marshal(map[string]any{"collections": map[string]any{"default": collection}})
	require.NoError(t, err)
	cfg, _, err := config.Parse(raw, nil)
	require.NoError(t, err)
	return cfg
}
