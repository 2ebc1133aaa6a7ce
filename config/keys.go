package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// fieldOf is the field of v with a key of the file.
func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == name && tag != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// keysOf lists the keys of a section, in the order of its fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "-" {
			keys = append(keys, tag)
		}
	}
	return keys
}

// sections are the groups of keys of the file, for keys that stand in the wrong one.
var sections = []struct {
	path string
	typ  reflect.Type
}{
	{"the top level", reflect.TypeFor[Config]()},
	{"xds", reflect.TypeFor[XDS]()},
	{"xds.tls", reflect.TypeFor[TLS]()},
	{"admin", reflect.TypeFor[Admin]()},
	{"swarm", reflect.TypeFor[Swarm]()},
	{"swarm.courier", reflect.TypeFor[Courier]()},
	{"collections.<name>", reflect.TypeFor[Collection]()},
	{"collections.<name>.certificates", reflect.TypeFor[Certificates]()},
	{"collections.<name>.tracing", reflect.TypeFor[Tracing]()},
}

// suggestKey is the way out for a key that section t does not have.
func suggestKey(name string, t reflect.Type) string {
	keys := keysOf(t)
	if near := Nearest(name, keys); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	for _, s := range sections {
		if slices.Contains(keysOf(s.typ), name) {
			return fmt.Sprintf("%s belongs under %s", name, s.path)
		}
	}
	return "the keys here are " + strings.Join(keys, ", ")
}
