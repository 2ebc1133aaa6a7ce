package hrm

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

var prefixes = []string{"com.docker.lb", "lb"}

const mesh = "com.docker.ucp.mesh.http"

func TestConvert(t *testing.T) {
	out, problems, err := Convert(prefixes, []*watcher.Service{
		{Name: "shop_web", Labels: map[string]string{stackLabel: "shop", mesh: "external_route=http://a.example,internal_port=80,sticky_sessions=a$b"}},
		{Name: "shop_plain", Labels: map[string]string{stackLabel: "shop", "com.docker.lb.hosts": "b.example"}},
		{Name: "lone", Labels: map[string]string{mesh + ".1": "external_route=http://,internal_port=80", "com.docker.lb.hosts": "c.example", mesh + ".2": "external_route=https://d.example"}},
	})
	require.NoError(t, err)
	require.Equal(t, `services:
  lone:
    deploy:
      labels:
        # in place of com.docker.ucp.mesh.http.1
        com.docker.lb.hrm-1.default_backend: "true"
        com.docker.lb.hrm-1.port: "80"
  web:
    deploy:
      labels:
        # in place of com.docker.ucp.mesh.http
        com.docker.lb.hosts: a.example
        com.docker.lb.port: "80"
        com.docker.lb.sticky_session_cookie: a$$b
`, string(out))
	require.Len(t, problems, 1)
	require.Equal(t, mesh+".2", problems[0].Label)

	out, problems, err = Convert(prefixes, []*watcher.Service{{Name: "a", Labels: map[string]string{"lb.hosts": "x"}}})
	require.NoError(t, err)
	require.Nil(t, out)
	require.Empty(t, problems)
}

// FuzzEquivalent: the labels that are written say what the HRM labels did, and the
// YAML that holds them reads back as them.
func FuzzEquivalent(f *testing.F) {
	f.Add("external_route=http://a.example,internal_port=80", "1", "external_route=sni://b.example,internal_port=443")
	f.Add("external_route=http://,redirect=https://x.example", "Old", "external_route=http://*.b.example,sticky_sessions=a b#: '")
	f.Fuzz(func(t *testing.T, one, suffix, two string) {
		s := &watcher.Service{Name: "app", Labels: map[string]string{mesh: one, mesh + "." + suffix: two}}
		set := labels.Merge(prefixes, "app", s.Labels)
		again := labels.Merge(prefixes, "app", Equivalent(set))
		require.Empty(t, again.Problems)
		texts := func(s *labels.Set) map[string]string {
			out := map[string]string{}
			for name, route := range s.Routes {
				if s.HRM[name].Broken {
					continue
				}
				if len(set.Routes) == 1 {
					name = ""
				}
				for k, v := range route {
					out[name+" "+k] = v.Text
				}
			}
			return out
		}
		require.Empty(t, cmp.Diff(texts(set), texts(again)))

		out, _, err := Convert(prefixes, []*watcher.Service{s})
		require.NoError(t, err)
		var file struct {
			Services map[string]struct {
				Deploy struct{ Labels map[string]string }
			}
		}
		require.NoError(t, yaml.Unmarshal(out, &file), "%s", out)
		want := Equivalent(set)
		for k, v := range want {
			require.Equal(t, strings.ReplaceAll(v, "$", "$$"), file.Services["app"].Deploy.Labels[k], "%s", out)
		}
		require.Len(t, file.Services["app"].Deploy.Labels, len(want))
	})
}
