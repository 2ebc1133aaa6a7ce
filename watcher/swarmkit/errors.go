package swarmkit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failure is a sentence with its cause.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// sentence says what is wrong with the control socket, and the way out.
func (t *Tasks) sentence(err error) error {
	var told *failure
	if errors.As(err, &told) {
		return told
	}
	return &failure{t.explain(err), err}
}

func (t *Tasks) explain(err error) string {
	const managers = "it exists on Swarm managers alone"
	socket, dir := t.Socket, filepath.Dir(t.Socket)
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	var handshake *handshakeError
	var silent *silentError
	var slow slowError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("there is no control socket at %s: %s; run Waggle on a manager, and in a container mount the directory %s", socket, managers, dir)
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("the control socket %s may not be used by this user: permission denied; run Waggle as root, or set swarm.source: engine", socket)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTSOCK):
		if i, statErr := os.Stat(socket); statErr == nil && i.IsDir() {
			return fmt.Sprintf("the control socket %s is a directory, which Docker makes where a file to mount is missing; remove it and mount the directory %s", socket, dir)
		}
		return fmt.Sprintf("nobody listens on the control socket %s: %s; run Waggle on a manager, and in a container mount the directory %s, not the file", socket, managers, dir)
	case errors.As(err, &silent):
		return fmt.Sprintf("the stream of the control socket %s has gone silent (%s); it is opened anew", socket, flat(text))
	case errors.As(err, &slow):
		return fmt.Sprintf("the control socket %s did not answer within %v; look at dockerd's log and load, and whether a majority of the managers is there", socket, time.Duration(slow).Round(time.Millisecond))
	case errors.As(err, &handshake):
		return fmt.Sprintf("the control socket %s does not speak TLS as dockerd does (%s); check swarm.control_socket", socket, flat(handshake.err.Error()))
	case status.Code(err) == codes.Unimplemented:
		return fmt.Sprintf("who listens on the control socket %s knows no Watch; check that swarm.control_socket is that of dockerd 17.06 or newer", socket)
	case has("no elected", "have a leader", "lost leader", "no leader"):
		return fmt.Sprintf("the Swarm of the control socket %s has no leader (%s); bring back a majority of the managers", socket, flat(detail(err)))
	case errors.Is(err, io.EOF), has("connection is broken", "error reading from server", "transport is closing", "connection error", "context canceled", "EOF"), status.Code(err) == codes.Unavailable:
		return fmt.Sprintf("dockerd has closed the control socket %s (%s): it restarts, or the node is no manager any more; it is tried again", socket, flat(detail(err)))
	}
	return fmt.Sprintf("the control socket %s refuses to be watched (%s); look at dockerd's log, or set swarm.source: engine", socket, flat(detail(err)))
}

// detail is what the other side said, without gRPC's words around it.
func detail(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

func flat(s string) string { return strings.Join(strings.Fields(s), " ") }
