package interlock

import (
	"fmt"
	"strings"
	"time"
)

// collection is one extension as a collection of waggle.yml.
type collection struct {
	name        string
	extension   string
	line        int
	clusterLine int
	said        map[string]int // key -> line
	idle        []idle

	publishedTLS uint32 // 0: not said

	Default         bool              `yaml:"default,omitempty"`
	HTTPPort        uint32            `yaml:"http_port,omitempty"`
	HTTPSPort       uint32            `yaml:"https_port,omitempty"`
	HTTPSPublicPort uint32            `yaml:"https_public_port,omitempty"`
	Networks        []string          `yaml:"networks,omitempty"`
	ShareHosts      string            `yaml:"share_hosts"`
	AccessLog       bool              `yaml:"access_log,omitempty"`
	Defaults        map[string]string `yaml:"defaults,omitempty"`
	Fleet           map[string]any    `yaml:"fleet,omitempty"`
}

// idle is one of the two directions in which nothing may come for a while.
type idle struct {
	name string
	span time.Duration
	line int
}

// standardIdle is the other direction's, where a file says one alone.
const standardIdle = 600 * time.Second

func (c *collection) note(key string, line int) {
	if c.said == nil {
		c.said = map[string]int{}
	}
	if _, there := c.said[key]; !there {
		c.said[key] = line
	}
}

// setDefault sets a label key for every service of the collection.
func (c *collection) setDefault(key, text string, line int) {
	if c.Defaults == nil {
		c.Defaults = map[string]string{}
	}
	c.Defaults[key] = text
	c.note("defaults", line)
	c.note("defaults."+key, line)
}

func (c *collection) setFleet(key string, v any, line int) {
	if c.Fleet == nil {
		c.Fleet = map[string]any{}
	}
	c.Fleet[key] = v
	c.note("fleet", line)
	c.note("fleet."+key, line)
}

// settle decides what several options say together.
func (c *collection) settle(conv *converter) {
	c.settleIdle(conv)
	https := c.HTTPSPort
	if https == 0 {
		https = 443
	}
	published := c.publishedTLS
	if published == 0 && https != 443 {
		published = 443 // what clients use, whatever the proxies listen on inside
	}
	if published != 0 && published != https {
		c.HTTPSPublicPort = published
	}
}

// settleIdle makes one idle timeout, which counts both directions, of one for each.
func (c *collection) settleIdle(conv *converter) {
	if len(c.idle) == 0 {
		return
	}
	longest := idle{span: standardIdle, line: c.idle[0].line}
	if len(c.idle) > 1 {
		longest = c.idle[0]
		for _, i := range c.idle {
			if i.span > longest.span {
				longest = i
			}
		}
	} else if c.idle[0].span > longest.span {
		longest = c.idle[0]
	}
	if longest.span != standardIdle {
		c.setDefault("idle_timeout", short(longest.span), longest.line)
	}
	for _, i := range c.idle {
		if i.span < longest.span {
			conv.notice(Notice{Line: i.line, Key: i.name,
				Text:   fmt.Sprintf("one timeout counts both directions, and the longer holds: %s", short(longest.span)),
				WayOut: "set `idle_timeout` on services that need a shorter one"})
		}
	}
}

// short writes a duration without trailing zero units ("10m", not "10m0s").
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
