package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/config/convert/interlock"
)

// isInterlock reports whether a file is Interlock's config.toml, by its name.
func isInterlock(name string) bool { return strings.EqualFold(filepath.Ext(name), ".toml") }

// ParseInterlock is Load for the content of a config.toml, which its messages call name.
func ParseInterlock(name string, data []byte, env []string, checks ...Check) (*Config, []Notice, error) {
	return parse(name, data, true, env, checks)
}

// interlock reads a config.toml into c. What is wrong, then and later, is told with
// the lines of that file.
func (r *reader) interlock(data []byte, c *Config) []Notice {
	doc, err := interlock.Convert(data, Nearest)
	for _, err := range parts(err) {
		if e, ok := errors.AsType[*interlock.Error](err); ok {
			r.failAt(r.fileLine(e.Line), e.Key, e.Reason, e.WayOut)
		} else {
			r.failAt(r.file, "", err.Error(), "")
		}
	}
	if doc == nil {
		return nil
	}
	if err == nil {
		r.document(doc.YAML, c)
		clear(r.where)
		for key, line := range doc.Lines {
			r.where[key] = r.fileLine(line)
		}
	}
	var notices []Notice
	for _, n := range doc.Notices {
		notices = append(notices, Notice{Where: r.fileLine(n.Line), Key: n.Key, Text: n.Text, WayOut: n.WayOut})
	}
	return notices
}

// channelNotice tells what a config.toml cannot say, because Interlock had no such thing.
func (r *reader) channelNotice(c *Config) []Notice {
	if c.XDS.TLS != nil || c.XDS.Insecure || len(r.errs) > 0 {
		return nil
	}
	return []Notice{{Where: r.file, Text: "Interlock's channel had no TLS, and Waggle's needs it",
		WayOut: fmt.Sprintf("set WAGGLE_XDS_TLS_CA, WAGGLE_XDS_TLS_CERT and WAGGLE_XDS_TLS_KEY to the files of `waggle ca`; proxies connect to %s unless WAGGLE_XDS_ADDRESS says otherwise", cmp.Or(c.XDS.Address, ":18000"))}}
}

func (r *reader) fileLine(line int) string {
	if line == 0 {
		return r.file
	}
	return r.file + ":" + strconv.Itoa(line)
}

// parts are the errors that were joined.
func parts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
