package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/waggle-lb/waggle/translate"
)

// row is one thing a visitor can try.
type row struct {
	collection string
	host, path string
	services   []string // who may answer
	addr       string   // of the proxy
	tls        bool
	root       string // over TLS: file with who is to be trusted
	client     bool   // over TLS: who asks must show a certificate
}

func (r row) url() string {
	scheme := "http"
	if r.tls {
		scheme = "https"
	}
	if r.host == "*" {
		return scheme + "://" + r.addr + r.path
	}
	_, port, _ := strings.Cut(r.addr, ":")
	return scheme + "://" + r.host + ":" + port + r.path
}

// try is a command that can be pasted. curl finds names under .localhost by itself;
// for any other it is told.
func (r row) try() string {
	curl := "curl "
	if r.tls {
		curl += "--cacert " + r.root + " "
	}
	if r.client {
		curl += "--cert CERT --key KEY "
	}
	switch {
	case r.host == "*":
		return curl + "-H 'Host: anything.example.com' " + r.url()
	case r.host == "localhost", strings.HasSuffix(r.host, ".localhost"):
		return curl + r.url()
	default:
		_, port, _ := strings.Cut(r.addr, ":")
		return fmt.Sprintf("%s--resolve %s:%s:%s %s", curl, r.host, port, loopback, r.url())
	}
}

// rows reads what can be tried out of what the proxies were given.
func (l *lab) rows() []row {
	built := l.built()
	var rows []row
	for _, a := range l.addresses {
		for _, r := range routesOf(built.Resources(a.collection)) {
			r.collection, r.addr = a.collection, a.http.String()
			if r.tls {
				r.addr, r.root = a.https.String(), l.root
			}
			if suffix, ok := strings.CutPrefix(r.host, "*."); ok {
				r.host = "any." + suffix
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// routesOf are the routes of a collection that lead to services, by host, longest path
// first, those over TLS after the plain ones.
func routesOf(res translate.Resources) []row {
	var rows []row
	for _, table := range res[translate.Routes] {
		rc, ok := table.Message.(*routev3.RouteConfiguration)
		if !ok {
			continue
		}
		// "http", "https" and, of hosts with a profile, "https-…".
		secure, profile := strings.HasPrefix(rc.Name, "https"), strings.TrimPrefix(rc.Name, "https")
		client := secure && strings.Contains(profile, "-ca-")
		for _, vh := range rc.VirtualHosts {
			if len(vh.Domains) == 0 {
				continue
			}
			for _, route := range vh.Routes {
				services := servicesOf(route.GetRoute())
				r := row{host: vh.Domains[0], path: pathOf(route.Match), services: services, tls: secure, client: client}
				if len(services) > 0 && !slices.ContainsFunc(rows, func(o row) bool {
					return o.host == r.host && o.path == r.path && o.tls == r.tls
				}) {
					rows = append(rows, r)
				}
			}
		}
	}
	secure := func(r row) int {
		if r.tls {
			return 1
		}
		return 0
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(secure(a), secure(b)), cmp.Compare(a.path, b.path))
	})
	return rows
}

// pathOf is a path that the match takes. What it strips is given a slash, so that
// the visitor does not meet the redirect first.
func pathOf(m *routev3.RouteMatch) string {
	path := cmp.Or(m.GetPathSeparatedPrefix(), m.GetPrefix(), m.GetPath(), "/")
	if !strings.HasSuffix(path, "/") && m.GetPath() == "" {
		path += "/"
	}
	return path
}

// servicesOf names the services behind a route's clusters ("stack_service:port…").
func servicesOf(action *routev3.RouteAction) []string {
	var clusters []string
	if c := action.GetCluster(); c != "" {
		clusters = append(clusters, c)
	}
	for _, w := range action.GetWeightedClusters().GetClusters() {
		if w.GetWeight().GetValue() > 0 {
			clusters = append(clusters, w.Name)
		}
	}
	for i, c := range clusters {
		clusters[i], _, _ = strings.Cut(c, ":")
	}
	slices.Sort(clusters)
	return slices.Compact(clusters)
}

// announce says that everything is ready, in the way that was asked for.
func (l *lab) announce() error {
	if l.o.Format == "json" {
		return l.readyLine()
	}
	return l.printTable(l.o.Stdout)
}

// readyLine is the one line of --format json.
func (l *lab) readyLine() error {
	type ports struct {
		HTTP  string `json:"http"`
		HTTPS string `json:"https"`
		Admin string `json:"admin"`
	}
	collections := map[string]ports{}
	for _, a := range l.addresses {
		collections[a.collection] = ports{a.http.String(), a.https.String(), a.admin.String()}
	}
	line, err := json.Marshal(struct {
		Ready       bool             `json:"ready"`
		API         string           `json:"api"`
		Collections map[string]ports `json:"collections"`
		CA          string           `json:"ca"` // file: who is to be trusted over TLS
	}{true, l.api, collections, l.root})
	if err != nil {
		return fmt.Errorf("write the ready line: %w", err)
	}
	_, err = fmt.Fprintf(l.o.Stdout, "%s\n", line)
	return err
}

// printTable shows what can be tried.
func (l *lab) printTable(out io.Writer) error {
	rows := l.rows()
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nCOLLECTION\tURL\tSERVICE\tTRY")
	last := ""
	for _, r := range rows {
		name := r.collection
		if name == last {
			name = ""
		}
		last = r.collection
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, r.url(), strings.Join(r.services, ", "), r.try())
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	var secure []string
	for _, a := range l.addresses {
		if slices.ContainsFunc(rows, func(r row) bool { return r.tls && r.collection == a.collection }) {
			secure = append(secure, a.collection+" at "+a.https.String())
		}
	}
	if len(secure) > 0 {
		fmt.Fprintf(out, "HTTPS: %s. The lab's certificates, also those of its tasks, are of an authority that ends with it:\n"+
			"trust %s (curl --cacert), in a browser for this session alone.\n\n", strings.Join(secure, ", "), l.root)
	}
	return nil
}
