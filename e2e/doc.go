// Package e2e shows that the whole works for real: a Docker Swarm of four nodes,
// an Envoy fleet for each of three collections, and traffic that never stops while
// services are updated, scaled and mislabelled; and what the commands say when they
// cannot run.
//
// The Swarm is the one of make swarm-lab (e2e/swarm-lab/lab.sh): three dockerds in
// namespaces of their own, and here a fourth that has no proxy: it is drained,
// unplugged and made a manager. That needs root; tests that need it fail without.
// make soak tells the same story for hours (WAGGLE_SOAK).
package e2e
