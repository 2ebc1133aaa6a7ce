package labels

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMethodsAreBounded(t *testing.T) {
	many := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("M%d", i))
		}
		return strings.Join(all, ",")
	}
	got, err := methods.read("PUT, GET,PUT")
	require.NoError(t, err)
	require.Equal(t, []string{"GET", "PUT"}, got)
	_, err = methods.read(many(32) + ",M1")
	require.NoError(t, err)
	for text, reason := range map[string]string{
		many(33):                             "names 33 methods, and at most 32 are compared",
		"GET," + strings.Repeat("X", 25):     `"XXXXXXXXXXXXXXXXXXXXXXXXX" is longer than any method`,
		"get":                                `"get" methods are written in capitals`,
		strings.Repeat("UPDATEREDIRECT ", 3): "",
	} {
		_, err := methods.read(text)
		require.Error(t, err, text)
		if reason != "" {
			require.Equal(t, reason, noteOf(err).reason)
		}
		require.NotEmpty(t, noteOf(err).hint)
	}
}

// What never matches is no error, for it harms nobody, and is told.
func TestMatchersThatNeverMatch(t *testing.T) {
	for label, hint := range map[string]string{
		"match_header.X_Tenant=a":         "send and match `x-tenant`",
		"match_header.X-Envoy-Retry-On=*": "name another header",
		"match_header.Connection=close":   "name another header",
		"match_query.q=a b":               "write `a%20b`",
		"match_query.q=!ü":                "write `!%C3%BC`",
		"match_query.ü=1":                 "write `%C3%BC`",
		"match_header.X-Tenant=a b":       "",
		"match_query.q=a%20b":             "",
		"match_query.q=~a b":              "",
	} {
		key, value, _ := strings.Cut(label, "=")
		s := parse(t, map[string]string{"lb.hosts": "a.example", "lb.port": "80", "lb." + key: value}, Options{})
		require.False(t, s.Routes[0].Broken, label)
		if hint == "" {
			require.Empty(t, s.Problems, label)
			continue
		}
		require.Len(t, s.Problems, 1, label)
		require.Equal(t, Warning, s.Problems[0].Severity, label)
		require.Equal(t, hint, s.Problems[0].Hint, label)
	}
}
