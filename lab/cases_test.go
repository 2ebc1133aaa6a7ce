package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// TestCases sends the requests of every example of the label language through a real
// Envoy. All of them run at once, in one table: what is wrong with one service must
// not be seen in another. An example that needs a configuration has a proxy of its own.
func TestCases(t *testing.T) {
	all, err := cases.Load("../translate/cases")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	t.Run("all at once", func(t *testing.T) {
		b := benchFor(t, config.ForCollections(nil))
		var plain []cases.Case
		for _, c := range all {
			if len(c.Config) == 0 {
				plain = append(plain, c)
			}
		}
		b.apply(t, deployed(t, plain...))
		for _, c := range plain {
			t.Run(c.Name, func(t *testing.T) { b.holds(t, c) })
		}
	})
	for _, c := range all {
		if len(c.Config) > 0 {
			t.Run(c.Name, func(t *testing.T) {
				b := benchFor(t, configOf(t, c))
				b.apply(t, deployed(t, c))
				b.holds(t, c)
			})
		}
	}
}

// deployed is what runs when all cases are deployed.
func deployed(t *testing.T, all ...cases.Case) *watcher.Picture {
	t.Helper()
	var whole *watcher.Picture
	for _, c := range all {
		p, findings, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{c.File}, Stack: c.Stack})
		require.NoError(t, err, c.Name)
		for _, f := range findings {
			require.NotEqual(t, stackfile.Error, f.Severity, "%s: %s", c.Name, f)
		}
		if whole == nil {
			whole = p
			continue
		}
		maps.Copy(whole.Services, p.Services)
		maps.Copy(whole.Networks, p.Networks)
		maps.Copy(whole.Configs, p.Configs)
		maps.Copy(whole.Secrets, p.Secrets)
	}
	return whole
}

// configOf is the configuration that a case asks for.
func configOf(t *testing.T, c cases.Case) *config.Config {
	t.Helper()
	collection := maps.Clone(c.Config)
	collection["default"] = true
	raw, err := yaml.Marshal(map[string]any{"collections": map[string]any{"default": collection}})
	require.NoError(t, err)
	cfg, _, err := config.Parse(raw, nil)
	require.NoError(t, err, c.Name)
	return cfg
}

// holds requires that a case gives what it says.
func (b *bench) holds(t *testing.T, c cases.Case) {
	for _, r := range c.Requests {
		t.Run(r.Ask, func(t *testing.T) {
			ask := func(t require.TestingT) {
				for range max(1, r.Times) {
					b.gives(t, c, r)
				}
			}
			if r.Soon {
				require.EventuallyWithT(t, func(t *assert.CollectT) { ask(t) }, deadline, 10*time.Millisecond)
				return
			}
			ask(t)
		})
	}
	var told []cases.Problem
	for _, p := range b.built().Problems() {
		if strings.HasPrefix(p.Service, c.Stack+"_") {
			told = append(told, cases.Problem{
				Severity: string(p.Severity), Service: p.Service, Label: p.Label, Value: p.Value, Reason: p.Reason, Hint: p.Hint, Winner: p.Winner,
			})
		}
	}
	require.Empty(t, c.Compare(told))
}

// gives sends one request of a case and compares what comes back.
func (b *bench) gives(t require.TestingT, c cases.Case, r cases.Request) {
	u, err := url.Parse(r.URL())
	require.NoError(t, err)
	var body io.Reader
	if r.Body != "" {
		body = strings.NewReader(r.Body)
	}
	req, err := http.NewRequest(r.Method(), "http://"+b.proxy("default")+"/", body)
	require.NoError(t, err)
	req.Host = u.Host
	// The path as it is written, unnormalised.
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = u.Path, u.EscapedPath(), u.RawQuery
	if u.Path == "" {
		req.URL.Path = "/"
	}
	for name, value := range r.Headers {
		req.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	say := fmt.Sprintf("%s: %s %v\n%s", r.Ask, res.Status, res.Header, raw)

	want := r.Gives
	require.Equal(t, want.Status, res.StatusCode, say)
	require.Equal(t, want.Reason, res.Header.Get("X-Waggle-Reason"), say)
	if want.Service != "" {
		require.Equal(t, c.Stack+"_"+want.Service, res.Header.Get(echo.ServiceHeader), say)
	}
	if want.Location != "" {
		require.Equal(t, want.Location, res.Header.Get("Location"), say)
	}
	if want.Body != "" {
		require.Equal(t, strings.TrimSpace(want.Body), strings.TrimSpace(string(raw)), say)
	}
	compareHeaders(t, want.Headers, res.Header, say)

	seen := want.Seen
	if seen.Method+seen.Host+seen.Path+seen.Query == "" && len(seen.Headers) == 0 {
		return
	}
	var at echo.Answer
	require.NoError(t, json.Unmarshal(raw, &at), say)
	for _, f := range []struct{ what, want, got string }{
		{"method", seen.Method, at.Method}, {"host", seen.Host, at.Host}, {"path", seen.Path, at.Path}, {"query", seen.Query, at.Query},
	} {
		if f.want != "" {
			require.Equal(t, f.want, f.got, "the %s that reached the task: %s", f.what, say)
		}
	}
	compareHeaders(t, seen.Headers, at.Headers, say)
}

func compareHeaders(t require.TestingT, want map[string]string, got http.Header, say string) {
	for name, value := range want {
		require.Equal(t, value, strings.Join(got.Values(name), ", "), "%s: %s", name, say)
	}
}
