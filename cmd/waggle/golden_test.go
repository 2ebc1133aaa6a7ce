package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what the golden cases want, and delete what has no case")

// TestGolden runs lint, render and explain on files alone. A case is a directory
// testdata/<command>/<case>; a new one needs only its stack file and -update:
//
//	stack.yml …  what the commands read, waggle.yml too
//	args         a command line per line, 'quoted' where a word holds blanks; by
//	             default the command of the directory on stack.yml
//	env          variables for ${…} in the stack file, NAME=value per line
//	stdin        what a file called - holds
//	want.txt     each command line with its output and exit code
//
// What «render --format json» prints is reduced to what can be reviewed (outline).
func TestGolden(t *testing.T) {
	for command, standard := range map[string]string{
		"lint":    "lint stack.yml",
		"render":  "render -f stack.yml --format json",
		"explain": "",
		"convert": "",
		"diff":    "diff -f old.yml -f new.yml",
	} {
		cases, err := os.ReadDir(filepath.Join("testdata", command))
		require.NoError(t, err)
		require.NotEmpty(t, cases)
		for _, c := range cases {
			t.Run(command+"/"+c.Name(), func(t *testing.T) {
				t.Chdir(filepath.Join("testdata", command, c.Name()))
				if inputs := caseFiles(t); len(inputs) == 0 {
					if *update {
						dir, err := os.Getwd()
						require.NoError(t, err)
						require.NoError(t, os.RemoveAll(dir))
						return
					}
					t.Fatal("want.txt has no case any more: run the test with -update")
				}
				for line := range strings.Lines(optional(t, "env")) {
					name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
					t.Setenv(name, value)
				}
				lines := standard
				if text := optional(t, "args"); text != "" {
					lines = text
				}
				var got strings.Builder
				for line := range strings.Lines(lines) {
					if line = strings.TrimSpace(line); line != "" {
						transcript(t, &got, line)
					}
				}
				require.NotEmpty(t, got.String(), "the case has no command line: write args")
				if *update {
					require.NoError(t, os.WriteFile("want.txt", []byte(got.String()), 0o644))
				}
				want := optional(t, "want.txt")
				require.Empty(t, gocmp.Diff(strings.Split(want, "\n"), strings.Split(got.String(), "\n")),
					"(-want +got; -update writes want.txt)")
			})
		}
	}
}

// caseFiles are the files of a case that say what it is.
func caseFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	var files []string
	for _, e := range entries {
		if e.Name() != "want.txt" {
			files = append(files, e.Name())
		}
	}
	return files
}

func optional(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return string(text)
}

// transcript runs one command line and writes what a terminal would show.
func transcript(t *testing.T, out *strings.Builder, line string) {
	t.Helper()
	args := words(line)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(optional(t, "stdin")), &stdout, &stderr)
	shown := stdout.String()
	if i := slices.Index(args, "--format"); args[0] == "render" && i > 0 && args[i+1] == "json" && code == 0 {
		shown = outline(t, stdout.Bytes())
	}
	here, err := os.Getwd()
	require.NoError(t, err)
	anywhere := strings.NewReplacer(here+"/", "./", here, ".")
	fmt.Fprintf(out, "$ waggle %s\n%s", line, anywhere.Replace(shown))
	if stderr.Len() > 0 {
		fmt.Fprintf(out, "(stderr)\n%s", anywhere.Replace(stderr.String()))
	}
	fmt.Fprintf(out, "(exit %d)\n\n", code)
}

// words splits a command line at blanks, except within single quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// The parts of «render --format json» that an outline shows.
type (
	rendered struct {
		Listeners map[string]struct {
			Address socket
		}
		Routes map[string]struct {
			VirtualHosts []struct {
				Domains []string
				Retry   *retries `json:"retry_policy"`
				Routes  []renderedRoute
			} `json:"virtual_hosts"`
		}
		Clusters map[string]struct {
			ConnectTimeout   string          `json:"connect_timeout"`
			OutlierDetection json.RawMessage `json:"outlier_detection"`
		}
		Endpoints map[string]struct {
			Endpoints []struct {
				LbEndpoints []struct {
					Endpoint struct{ Address socket }
				} `json:"lb_endpoints"`
			}
		}
		Secrets map[string]json.RawMessage
	}
	socket struct {
		Socket struct {
			Address string
			Port    int `json:"port_value"`
		} `json:"socket_address"`
	}
	renderedRoute struct {
		Name  string
		Match json.RawMessage
		Route *struct {
			Cluster  string
			Weighted struct {
				Clusters []struct {
					Name   string
					Weight int
				}
			} `json:"weighted_clusters"`
			PrefixRewrite string `json:"prefix_rewrite"`
			Timeout       string
			IdleTimeout   string   `json:"idle_timeout"`
			Retry         *retries `json:"retry_policy"`
		}
		Redirect json.RawMessage
		Direct   *struct{ Status int } `json:"direct_response"`
		Headers  []struct {
			Header struct{ Key, Value string }
		} `json:"response_headers_to_add"`
		Told []struct {
			Header struct{ Key, Value string }
		} `json:"request_headers_to_add"`
	}
	retries struct {
		On  string `json:"retry_on"`
		Num int    `json:"num_retries"`
	}
)

// outline shows of rendered resources what labels decide: hosts, routes in their
// order, where they lead, and the endpoints.
func outline(t *testing.T, raw []byte) string {
	t.Helper()
	var r rendered
	require.NoError(t, json.Unmarshal(raw, &r))
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Listeners)) {
		fmt.Fprintf(&b, "listener %s at %s\n", name, r.Listeners[name].Address)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Routes)) {
		for _, h := range r.Routes[name].VirtualHosts {
			fmt.Fprintf(&b, "%s: host %s%s\n", name, strings.Join(h.Domains, ", "), h.Retry)
			for _, route := range h.Routes {
				fmt.Fprintf(&b, "  %s: %s → %s\n", route.Name, matches(t, route.Match), route.leads(t))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Clusters)) {
		c := r.Clusters[name]
		fmt.Fprintf(&b, "cluster %s: connect %s", name, c.ConnectTimeout)
		if c.OutlierDetection == nil {
			b.WriteString(", never ejects")
		}
		fmt.Fprintf(&b, ", endpoints %s\n", r.addresses(name))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Endpoints)) {
		if _, told := r.Clusters[name]; !told {
			fmt.Fprintf(&b, "endpoints %s: %s\n", name, r.addresses(name))
		}
	}
	return b.String()
}

// addresses are the endpoints of a cluster.
func (r rendered) addresses(cluster string) string {
	var list []string
	for _, group := range r.Endpoints[cluster].Endpoints {
		for _, e := range group.LbEndpoints {
			list = append(list, e.Endpoint.Address.String())
		}
	}
	return cmp.Or(strings.Join(list, " "), "none")
}

func (s socket) String() string { return fmt.Sprintf("%s:%d", s.Socket.Address, s.Socket.Port) }

// matches says what a route takes; in full JSON where there is more to it.
func matches(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var m struct {
		Prefix  string
		Path    string
		Under   string `json:"path_separated_prefix"`
		Headers []struct {
			Name  string
			Match struct {
				Regex struct{ Regex string } `json:"safe_regex"`
			} `json:"string_match"`
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if d.Decode(&m) != nil {
		return compact(t, raw)
	}
	text := cmp.Or(m.Path, m.Prefix+"*")
	if m.Under != "" {
		text = m.Under + " and " + m.Under + "/*"
	}
	for _, h := range m.Headers {
		text += fmt.Sprintf(", %s %s", h.Name, h.Match.Regex.Regex)
	}
	return text
}

// leads says where a route leads.
func (r renderedRoute) leads(t *testing.T) string {
	t.Helper()
	switch {
	case r.Direct != nil:
		text := fmt.Sprint("answer ", r.Direct.Status)
		for _, h := range r.Headers {
			text += fmt.Sprintf(", %s: %s", h.Header.Key, h.Header.Value)
		}
		return text
	case r.Redirect != nil:
		return "redirect " + compact(t, r.Redirect)
	}
	text := r.Route.Cluster
	for _, c := range r.Route.Weighted.Clusters {
		text += fmt.Sprintf(" %s×%d", c.Name, c.Weight)
	}
	if r.Route.PrefixRewrite != "" {
		text += ", as " + r.Route.PrefixRewrite
	}
	text += fmt.Sprintf("; timeout %s, idle %s", r.Route.Timeout, r.Route.IdleTimeout)
	text += r.Route.Retry.String()
	for _, h := range r.Told {
		text += fmt.Sprintf(", %s: %s", h.Header.Key, h.Header.Value)
	}
	return strings.TrimSpace(text)
}

// String says how often and when a request is sent again; nothing where the host decides.
func (r *retries) String() string {
	if r == nil {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf(", %d retries on %s", r.Num, r.On), " on ")
}

func compact(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, json.Compact(&b, raw))
	return b.String()
}
