// Package watcher says what runs: it turns sources (a Swarm's Engine API, stack
// files, the lab) into one immutable Picture and what changed in it.
//
// A Source lists before it tells: its first Update with a Picture is a complete
// one. A failed or half-read list never becomes a Picture; the last one stays and
// the Update carries the error instead. Whoever receives a Picture may keep it for
// ever and must not change it.
package watcher
