package config

import (
	"cmp"
	"slices"
)

// Error is one thing wrong with a configuration.
type Error struct {
	Where  string // "waggle.yml:12", or the environment variable
	Key    string // "collections.dev.http_port"; "" where no key is to blame
	Reason string // what is wrong
	WayOut string // what to write instead
}

func (e *Error) Error() string { return sentence(e.Where, e.Key, e.Reason, e.WayOut) }

// Notice is something accepted that has no effect.
type Notice struct {
	Where  string
	Key    string
	Text   string
	WayOut string
}

func (n Notice) String() string { return sentence(n.Where, n.Key, n.Text, n.WayOut) }

func sentence(where, key, text, wayOut string) string {
	if key != "" {
		where += ": " + key
	}
	if wayOut != "" {
		text += "; " + wayOut
	}
	return where + ": " + text
}

// nearest is the candidate that a mistyped word most likely meant, "" if none is near.
func nearest(word string, candidates []string) string {
	type scored struct {
		name     string
		distance int
	}
	var best []scored
	for _, c := range candidates {
		if d := distance(word, c); d <= max(1, min(len(word), len(c))/3) {
			best = append(best, scored{c, d})
		}
	}
	if len(best) == 0 {
		return ""
	}
	return slices.MinFunc(best, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	}).name
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b. Words longer than any key are as far as they are long.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return max(len(a), len(b))
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
