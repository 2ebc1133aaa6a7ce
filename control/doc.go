// Package control says when: one goroutine owns the inputs (the picture of what
// runs and the operator's configuration) and turns them into generations that it
// hands to a Publisher. It knows no Docker and no Envoy.
//
// What it promises: nothing is published before the first complete picture, and
// nothing from a failed one; what takes much away is published only when a second
// complete list says the same (shrink.go); the first change after a quiet time is
// published at once and those that follow are gathered (Pace); there are never two
// builds at once.
package control
