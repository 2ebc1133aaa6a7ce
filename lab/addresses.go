package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// loopback is the only address on which the lab listens.
const loopback = "127.0.0.1"

// address is one port of the lab.
type address struct {
	port int
	what string // "HTTP of collection dev"
	flag string // how to choose another one: "--http-base"
}

func (a address) String() string { return net.JoinHostPort(loopback, strconv.Itoa(a.port)) }

// addresses are the ports of one collection.
type addresses struct {
	collection         string
	http, https, admin address
}

// assign gives every collection its ports, counted up from each base in the order
// of names, or any free ones where a base is 0. Ports that are taken are an error that names them
// and the way out: nothing was started yet.
func assign(names []string, httpBase, httpsBase, adminBase int) ([]addresses, error) {
	given := map[int]string{}
	pick := func(i, base int, what, flag string) (address, error) {
		a := address{port: base + i, what: what, flag: flag}
		if base == 0 {
			port, err := freePort(given)
			if err != nil {
				return a, fmt.Errorf("find a free port for %s: %w", what, err)
			}
			a.port = port
		} else if err := a.check(given); err != nil {
			return a, err
		}
		given[a.port] = what
		return a, nil
	}
	var all []addresses
	for i, name := range names {
		c := addresses{collection: name}
		var err error
		if c.http, err = pick(i, httpBase, "HTTP of collection "+name, "--http-base"); err != nil {
			return nil, err
		}
		if c.https, err = pick(i, httpsBase, "HTTPS of collection "+name, "--https-base"); err != nil {
			return nil, err
		}
		if c.admin, err = pick(i, adminBase, "the admin page of collection "+name+"'s Envoy", "--admin-base"); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// check says in one sentence why a port cannot be used and what to do.
func (a address) check(given map[int]string) error {
	if a.port < 1 || a.port > 65535 {
		return fmt.Errorf("port %d (%s) does not exist: choose another with %s N (0: any free)", a.port, a.what, a.flag)
	}
	if by := given[a.port]; by != "" {
		return fmt.Errorf("port %d is wanted twice, for %s and for %s: choose another with %s N (0: any free)", a.port, by, a.what, a.flag)
	}
	lis, err := net.Listen("tcp", a.String())
	if err != nil {
		return fmt.Errorf("port %d (%s) cannot be used (%w): stop what listens there, or choose another with %s N (0: any free)", a.port, a.what, reason(err), a.flag)
	}
	return lis.Close()
}

// reason is err without the operation and address, which the sentence around it names.
func reason(err error) error {
	if op, ok := err.(*net.OpError); ok { //nolint:errorlint // only the outermost says it twice
		return op.Err
	}
	return err
}

// freePort finds a port for a process that will listen on it later. It is looked for
// below the range from which the kernel takes ports of outgoing connections, so that none of
// those can take it meanwhile.
func freePort(given map[int]string) (int, error) {
	const low, high, tries = 10240, 32000, 200
	var last error
	for range tries {
		a := address{port: low + rand.IntN(high-low), what: "any", flag: ""}
		if last = a.check(given); last == nil {
			return a.port, nil
		}
	}
	return 0, last
}
