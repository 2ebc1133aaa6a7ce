// Package translate says what it means: it turns a picture of the Swarm and the
// operator's configuration into the Envoy resources of every collection, and the
// problems of those who wrote the labels.
//
// It is pure: no I/O, clock, logger or globals. The same input gives the same
// bytes, in any order of events: Build from nothing and a Builder fed with every
// change agree (the property tests hold it to that).
package translate
