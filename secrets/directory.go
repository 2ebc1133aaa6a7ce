package secrets

import "time"

// NamedPair is a certificate of a collection's directories.
type NamedPair struct {
	Name string // of the certificate's file
	Pair *Pair  // nil where it cannot be served
	// Err says why it cannot be served; a *Refusal.
	Err      error
	Findings []Finding
	Kept     string // see Pair.Kept
}

// Certificates gives the certificates that are in a collection's directories, found by
// what the files hold, by name. It must not be changed.
func (m *Material) Certificates(collection string) []NamedPair {
	if m == nil {
		return nil
	}
	return m.shelves[collection].pairs
}

// At is the instant as of which certificates of the material are checked. It moves
// when it makes a difference, and each UTC day.
func (m *Material) At() time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.at
}

// Local is the development authority; nil where there is none.
func (m *Material) Local() *LocalCA {
	if m == nil {
		return nil
	}
	return m.local
}
