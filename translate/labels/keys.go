package labels

import "strings"

//go:generate go test -run TestReference . -update

// key is one key of the label language: a row of the table below. Parsing,
// diagnostics, suggestions and the reference all come from it: adding a key is
// adding a row, and a field of Route for its value.
type key struct {
	name  string
	takes naming // what stands after the key ("match_header.X-Tenant")

	class       Class
	interlock   bool // Interlock's own key
	serviceWide bool // holds for every route of the service; an error in a named route
	narrows     bool // says which part of its hosts a route takes: see Route.Vague

	value binding
	// standard is the value that says the same as no label at all, "" where there is none.
	standard string
	// standardText is what the reference shows instead of standard.
	standardText string
	meaning      string
}

// naming says what kind of name a key takes.
type naming byte

const (
	unnamed       naming = iota
	headerName           // any header, compared without case
	shapedName           // a header that labels may change
	parameterName        // a query parameter
)

// section is a chapter of the reference.
type section struct {
	title string
	intro string
	keys  []key
}

// sections is the whole language. Each has a file, keys_….go, with its keys and
// the struct of Route that holds their values.
var sections = []section{
	trafficKeys,
	destinationKeys,
	answersKeys,
	tlsKeys,
	resilienceKeys,
	guardsKeys,
	shapingKeys,
	streamsKeys,
}

// keys is every key with its place in the table; keysByName finds them.
var (
	keys       = flatten(sections)
	keysByName = index(keys)
	keyNames   = names(keys)
)

// row is a key and its place.
type row struct {
	*key
	place int
}

func flatten(sections []section) []row {
	var all []row
	for i := range sections {
		for j := range sections[i].keys {
			all = append(all, row{&sections[i].keys[j], len(all)})
		}
	}
	return all
}

func index(rows []row) map[string]row {
	m := make(map[string]row, len(rows))
	for _, r := range rows {
		m[r.name] = r
	}
	return m
}

func names(rows []row) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r.name)
	}
	return all
}

// canonical is the name under which a Set holds the key: "port",
// "match_header.x-tenant" (header names are compared without case).
func (k *key) canonical(name string) string {
	switch k.takes {
	case unnamed:
		return k.name
	case parameterName:
		return k.name + "." + name
	default:
		return k.name + "." + asciiLower(name)
	}
}

// checkName refuses a name that cannot stand after the key.
func (k *key) checkName(name string) error {
	switch k.takes {
	case headerName:
		if len(name) > maxHeaderName {
			return refuse("write a shorter name", "is %d bytes long, and at most %d are taken", len(name), maxHeaderName)
		}
		_, err := token.read(name)
		return err
	case shapedName:
		_, err := shapedHeader.read(name)
		return err
	case parameterName:
		if strings.TrimSpace(name) == "" {
			return refuse("write `"+k.name+".<name>`", "is blank")
		}
		if len(name) > maxParameterName {
			return refuse("write a shorter name", "is %d bytes long, and at most %d are taken", len(name), maxParameterName)
		}
	}
	return nil
}
