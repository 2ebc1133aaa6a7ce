package labels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckOperator(t *testing.T) {
	for _, c := range []struct {
		name string
		m    map[string]string
		errs []string
	}{
		{name: "nothing"},
		{name: "good", m: map[string]string{"retries": "2", "timeout": "30s", "network": "edge", "set_response_header.X-Frame-Options": "DENY", "ssl_only": "true", "port": ""}},
		{name: "unknown", m: map[string]string{"retires": "2", "nonsense": "x"}, errs: []string{
			"collections.dev.defaults: nonsense: `nonsense` is not a known key; the keys are listed in docs/labels.md",
			"collections.dev.defaults: retires: `retires` is not a known key; did you mean `retries`?"}},
		{name: "with prefix", m: map[string]string{"com.docker.lb.retries": "2", "lb.port": "80"}, errs: []string{
			"collections.dev.defaults: com.docker.lb.retries: keys stand here without the prefix; write `retries`",
			"collections.dev.defaults: lb.port: keys stand here without the prefix; write `port`"}},
		{name: "named route", m: map[string]string{"api.retries": "2"}, errs: []string{
			"collections.dev.defaults: api.retries: keys of one route cannot be set here; these hold for every route; write `retries`"}},
		{name: "its own name", m: map[string]string{"service_cluster": "dev"}, errs: []string{
			"collections.dev.defaults: service_cluster: chooses the collection and cannot be set by one; remove it, or use `default`, `access_labels` or `match_constraints` of the collection"}},
		{name: "bad values", m: map[string]string{"retries": "many", "hosts": "a.example,*b", "basic_auth": "user:pass", "match_header.a b": "x"}, errs: []string{
			"collections.dev.defaults: basic_auth: \"[redacted]\": is not the name of a secret, config or file; put the content into a secret or config and write its name",
			"collections.dev.defaults: hosts: \"*b\": has a wildcard that is not its whole first part; write `*` or `*.example.com`",
			"collections.dev.defaults: match_header.a b: \"x\": the name \"a b\": the character ' ' cannot stand in a name; write a name of letters, digits and hyphens",
			"collections.dev.defaults: retries: \"many\": is not a whole number; write a whole number, 0 or more"}},
		{name: "twice", m: map[string]string{"match_header.X-A": "1", "match_header.x-a": "2"}, errs: []string{
			"collections.dev.defaults: match_header.x-a: header names are compared without case, and `match_header.X-A` says the same; remove one of the two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, err := range CheckOperator("collections.dev.defaults", c.m) {
				got = append(got, err.Error())
			}
			require.Equal(t, c.errs, got)
		})
	}
}
