package translate

import "slices"

// WantsLocalCA reports whether a published service asks for a certificate of the
// development authority.
func (b *Builder) WantsLocalCA() bool {
	for _, s := range b.services {
		if slices.ContainsFunc(s.routes, func(r *route) bool { return r.label.TLS.TLS == "local" }) {
			return true
		}
	}
	return false
}
