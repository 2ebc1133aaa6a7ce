// Package lab is the whole of Waggle on one machine, without Docker and without
// root: a source that runs an echo task for every replica of a stack file, a control
// plane, one real Envoy per collection, live load, and the story that it tells.
//
// The lab is honest about what it is not: on loopback a dead task refuses
// connections, where a Swarm's overlay network swallows packets. It shows what every
// rule does; claims of zero loss are made on a real Swarm alone.
package lab
