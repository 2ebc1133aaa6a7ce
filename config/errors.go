package config

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
