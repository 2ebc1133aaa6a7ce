package launch

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is the one Envoy.
type child struct {
	process *os.Process
	log     *tail
	ended   chan struct{}
	status  syscall.WaitStatus // valid after ended is closed

	mu     sync.Mutex
	gone   bool // the process ID may be another's by now
	killed bool // by us
}

// Ended says how an Envoy ended that nobody told to.
type Ended struct {
	Code      int            // what this process should exit with
	Signal    syscall.Signal // what killed it; 0: it exited by itself
	LastWords string         // the last line that it logged, perhaps of long ago
}

// Error is one line.
func (e *Ended) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != 0 {
		how = "killed by " + cmp.Or(unix.SignalName(e.Signal), e.Signal.String())
		if e.Signal == syscall.SIGKILL {
			how += ", as when the container's memory is used up"
		}
	}
	return fmt.Sprintf("Envoy ended by itself (%s); its last words: %s", how, cmp.Or(e.LastWords, "none"))
}

// ExitCode is Envoy's own, or 128 and the number of the signal, as shells and Docker have it.
func (e *Ended) ExitCode() int { return e.Code }

// start runs a program whose standard error is copied to stderr, its end kept.
func start(binary string, args []string, stdout, stderr *os.File) (*child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &child{log: &tail{to: cmp.Or(stderr, os.Stderr)}, ended: make(chan struct{})}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(c.log, r) // ends with the child, or by the deadline below
		_ = r.Close()
	}()
	started := make(chan error, 1)
	go func() {
		// The kernel ends the child when the thread that started it ends, so that
		// thread stays with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		c.process, err = os.StartProcess(binary, append([]string{binary}, args...), &os.ProcAttr{
			Files: []*os.File{null, cmp.Or(stdout, os.Stdout), w}, Sys: attributes(),
		})
		_ = w.Close() // the child has its own
		if err != nil {
			<-copied
			started <- err
			return
		}
		started <- nil
		c.status = c.wait()
		c.mu.Lock()
		c.gone = true
		c.mu.Unlock()
		// Whatever the child has started may still hold the other end.
		_ = r.SetReadDeadline(time.Now().Add(time.Second))
		<-copied
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// wait waits until the child has ended. As the first process of a container it also
// takes away the dead that were left to it; nobody else does, and each holds a
// process ID for good. This process has no other children, so none is stolen.
func (c *child) wait() syscall.WaitStatus {
	of := c.pid()
	if inheritsOrphans() {
		of = -1
	}
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(of, &status, 0, nil)
		if got == c.pid() || err != nil && !errors.Is(err, syscall.EINTR) {
			return status
		}
	}
}

func (c *child) pid() int { return c.process.Pid }

// signal sends a signal, to nobody if the child has ended.
func (c *child) signal(s os.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.killed = c.killed || s == syscall.SIGKILL
		_ = c.process.Signal(s)
	}
}

// end says how the child ended; it may be called when it has.
func (c *child) end() *Ended {
	e := &Ended{Code: c.status.ExitStatus(), LastWords: c.log.last()}
	if c.status.Signaled() {
		e.Signal = c.status.Signal()
		e.Code = 128 + int(e.Signal)
	}
	return e
}

// asTold says whether that is how an Envoy ends that was told to: by itself, by a
// SIGTERM that came before it listened, or killed by us.
func (c *child) asTold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := c.end()
	return end.Code == 0 || end.Signal == syscall.SIGTERM || end.Signal == syscall.SIGKILL && c.killed
}

// tail hands on what is written to it, and keeps the end.
type tail struct {
	to   io.Writer
	mu   sync.Mutex
	kept []byte
}

// tailSize is how much is kept, at least.
const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*tailSize {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-tailSize:]...)
	}
	_, _ = t.to.Write(p) // a log that nobody takes must not stop the proxy
	return len(p), nil
}

// stamp is what Envoy's log lines begin with: time, thread, level, logger, source.
var stamp = regexp.MustCompile(`^(\[[^]]*\] ?)+`)

// last is the last line without its stamp. When Envoy refuses its configuration or its
// flags that is the reason: it ends by writing it once more, alone.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(string(t.kept), "\n")
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(strings.TrimPrefix(stamp.ReplaceAllString(line, ""), ": "))
		if line != "" {
			return line[:min(len(line), 1000)]
		}
	}
	return ""
}
