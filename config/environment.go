package config

import (
	"reflect"
	"slices"
	"strings"
)

// environment applies the WAGGLE_… variables to c. Each key of the file outside
// the collections has one: xds.address is WAGGLE_XDS_ADDRESS; lists are comma
// separated. An empty variable says nothing. Unknown ones give a notice, since
// Docker makes such names too (WAGGLE_PORT for a linked container).
func (r *reader) environment(env []string, c *Config) []Notice {
	vars := variables(reflect.TypeFor[Config](), "")
	var notices []Notice
	for _, kv := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "WAGGLE_") || value == "" {
			continue
		}
		key, known := vars[name]
		if !known {
			n := Notice{Where: name, Text: "this variable is unknown and has no effect"}
			names := make([]string, 0, len(vars))
			for v := range vars {
				names = append(names, v)
			}
			if near := Nearest(name, names); near != "" {
				n.WayOut = "did you mean " + near + "?"
			}
			notices = append(notices, n)
			continue
		}
		for at := range r.where { // the file's items of a list that is replaced
			if strings.HasPrefix(at, key+"[") {
				delete(r.where, at)
			}
		}
		r.where[key] = name
		r.override(key, value, fieldAt(reflect.ValueOf(c).Elem(), key))
	}
	return notices
}

func (r *reader) override(key, value string, v reflect.Value) {
	if v.Kind() != reflect.Slice {
		r.scalar(key, value, v)
		return
	}
	v.SetZero()
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			e := reflect.New(v.Type().Elem()).Elem()
			r.scalar(key, item, e)
			v.Set(reflect.Append(v, e))
		}
	}
}

// variables maps the name of each variable to its key.
func variables(t reflect.Type, key string) map[string]string {
	out := map[string]string{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "-" {
			continue
		}
		at, typ := join(key, tag), f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch typ.Kind() {
		case reflect.Map:
		case reflect.Struct:
			for name, k := range variables(typ, at) {
				out[name] = k
			}
		default:
			out["WAGGLE_"+strings.ToUpper(strings.ReplaceAll(at, ".", "_"))] = at
		}
	}
	return out
}

// fieldAt is the field at a key path, with the sections on the way made.
func fieldAt(v reflect.Value, key string) reflect.Value {
	for part := range strings.SplitSeq(key, ".") {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v, _ = fieldOf(v, part)
	}
	return v
}
