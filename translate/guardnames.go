package translate

// GuardFilters names the HTTP filters that decide who may pass, as routes switch
// them on: a route that loses one is open to more than before.
func GuardFilters() []string {
	var names []string
	for _, f := range httpFilters {
		if f.guard {
			names = append(names, f.name)
		}
	}
	return names
}
