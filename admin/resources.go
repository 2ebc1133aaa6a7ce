package admin

import (
	"net/http"
	"strings"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/explain"
	"github.com/waggle-lb/waggle/translate/render"
)

// resources is GET /api/v1/collections/{c}/resources[/{type}]: as «waggle render»
// shows them, everything sensitive taken out.
func (a *API) resources(r *http.Request) (any, error) {
	v, kinds, err := a.asked(r)
	if err != nil {
		return nil, err
	}
	tree, err := render.Tree(v.resources[r.PathValue("c")], kinds...)
	if err != nil {
		return nil, err
	}
	if r.PathValue("type") != "" {
		named := tree[r.PathValue("type")]
		if named == nil {
			named = map[string]any{}
		}
		return named, nil
	}
	return tree, nil
}

// resource is GET /api/v1/collections/{c}/resources/{type}/{name}; names may hold slashes.
func (a *API) resource(r *http.Request) (any, error) {
	v, kinds, err := a.asked(r)
	if err != nil {
		return nil, err
	}
	res := v.resources[r.PathValue("c")][kinds[0]][r.PathValue("name")]
	if res == nil {
		return nil, notFound("collection %q has no %q among its %s", r.PathValue("c"), r.PathValue("name"), kinds[0])
	}
	return render.Resource(res.Message)
}

// asked finds the collection and the kinds that a path names.
func (a *API) asked(r *http.Request) (*view, []translate.Kind, error) {
	if _, err := one(r); err != nil {
		return nil, nil, err
	}
	kinds := render.Shown
	if name := r.PathValue("type"); name != "" {
		k, ok := render.KindNamed(name)
		if !ok {
			var known []string
			for _, k := range render.Shown {
				known = append(known, k.String())
			}
			return nil, nil, notFound("type %q is unknown: there are %s", name, strings.Join(known, ", "))
		}
		kinds = []translate.Kind{k}
	}
	v, err := a.view(r)
	if err != nil {
		return nil, nil, err
	}
	return v, kinds, v.has(r.PathValue("c"))
}

// explain is GET /api/v1/explain?collection=&method=&url=&header=Name:%20value.
func (a *API) explain(r *http.Request) (any, error) {
	query := r.URL.Query()
	header := http.Header{}
	for _, line := range query["header"] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, badRequest("header %q is not one: write «Name: value»", line)
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	query.Del("header")
	only := *r.URL
	only.RawQuery = query.Encode()
	q, err := one(&http.Request{URL: &only}, "collection", "method", "url")
	if err != nil {
		return nil, err
	}
	if q["url"] == "" {
		return nil, badRequest("no url is given: ask for /api/v1/explain?collection=…&method=GET&url=http://HOST/PATH")
	}
	v, err := a.view(r)
	if err != nil {
		return nil, err
	}
	collection := q["collection"]
	if collection == "" {
		if collection = v.usual(); collection == "" {
			return nil, badRequest("no collection is given: there are %s", strings.Join(v.names(), ", "))
		}
	}
	if err := v.has(collection); err != nil {
		return nil, err
	}
	answer, err := explain.Explain(v.resources[collection], explain.Request{
		Collection: collection, Method: strings.ToUpper(q["method"]), URL: q["url"], Header: header,
	}, v.problems)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	if answer.Status < 500 { // else it is among the errors of the service that are told
		for _, p := range v.rejected {
			if p.Service != "" && p.Service == answer.Service && p.Collection == collection {
				answer.Because = append(answer.Because, p.Reason+"; "+p.Hint)
			}
		}
	}
	return answer, nil
}

// usual is the collection that is meant where none is named: the only one, or the default.
func (v *view) usual() string {
	names := v.names()
	if len(names) == 1 {
		return names[0]
	}
	for _, name := range names {
		if v.status.Config.Collections[name].Default {
			return name
		}
	}
	return ""
}
