package launch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

// as names the part that this binary plays when a test starts it again.
const as = "WAGGLE_TEST_LAUNCH_AS"

func TestMain(m *testing.M) {
	switch part := os.Getenv(as); part {
	case "":
		goleak.VerifyTestMain(m)
	case "launcher", "first process":
		os.Exit(launcher(part == "first process"))
	case "deaf envoy": // does not hear SIGTERM
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "parent": // leaves a child behind, and says its process ID
		child := exec.Command(self(), "-")
		child.Env = []string{as + "=orphan"}
		child.ExtraFiles = []*os.File{os.NewFile(3, "life")}
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println(child.Process.Pid)
	case "orphan": // lives until its file ends
		_, _ = os.NewFile(3, "life").Read(make([]byte, 1))
	}
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// launcher is what the command does, with the real signals. A first process gets an
// orphan, as one of a container may, whose life is the file with number 3.
func launcher(first bool) int {
	if first {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		parent := exec.Command(self(), "-")
		parent.Env = []string{as + "=parent"}
		parent.ExtraFiles = []*os.File{os.NewFile(3, "life")}
		out, err := parent.Output()
		if err != nil {
			panic(err)
		}
		fmt.Printf("orphan %s", out)
	}
	signals, stop := Notify()
	defer stop()
	_ = os.Setenv(as, "deaf envoy") // what ENVOY may be
	err := Run(context.Background(), Options{
		Bootstrap: bootstrap.Options{Collection: "dev", AdminAddress: os.Getenv("ADMIN")},
		Signals:   signals, Logger: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	var ended *Ended
	if errors.As(err, &ended) {
		fmt.Println(err)
		return ended.ExitCode()
	}
	if err != nil {
		fmt.Println(err)
		return 2
	}
	return 0
}

// other is this binary, started again.
type other struct {
	cmd *exec.Cmd
	out *bufio.Scanner
}

func startOther(t *testing.T, part, envoy string, files ...*os.File) *other {
	t.Helper()
	o := &other{cmd: exec.Command(self())}
	o.cmd.Env = append(os.Environ(), as+"="+part, "ENVOY="+envoy, "ADMIN="+filepath.Join(t.TempDir(), "admin.sock"))
	o.cmd.ExtraFiles = files
	out, err := o.cmd.StdoutPipe()
	require.NoError(t, err)
	o.out = bufio.NewScanner(out)
	require.NoError(t, o.cmd.Start())
	hung := time.AfterFunc(patience, func() { _ = o.cmd.Process.Kill() })
	t.Cleanup(func() {
		hung.Stop()
		_ = o.cmd.Process.Kill()
		_ = o.cmd.Wait()
	})
	return o
}

// reads gives the first group of a pattern in the lines to come.
func (o *other) reads(t *testing.T, pattern string) string {
	t.Helper()
	re, seen := regexp.MustCompile(pattern), []string{}
	for o.out.Scan() {
		if m := re.FindStringSubmatch(o.out.Text()); m != nil {
			return m[len(m)-1]
		}
		seen = append(seen, o.out.Text())
	}
	require.Fail(t, "it did not say "+pattern, "%s", strings.Join(seen, "\n"))
	return ""
}

func (o *other) pid(t *testing.T, pattern string) int {
	t.Helper()
	pid, err := strconv.Atoi(o.reads(t, pattern))
	require.NoError(t, err)
	return pid
}

// exists is true for a process that runs, and for one that is dead but not taken away.
func exists(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return err == nil
}

func TestStartsAndAnswersChecks(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = time.Second
	p := launch(t, c, o).isReady(t)
	web := client(t)
	require.Equal(t, http.StatusOK, status(web, "http://"+c.http))
	for _, path := range []string{"/ready", "/"} {
		require.Equal(t, http.StatusOK, status(web, "http://"+p.options.ReadyAddress+path))
	}
	require.Equal(t, http.StatusNotFound, status(web, "http://"+p.options.ReadyAddress+"/quitquitquit"))
	res, err := web.Post(p.ready, "", nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)

	answer, err := Health(t.Context(), p.options.Bootstrap.AdminAddress, false)
	require.NoError(t, err)
	require.Equal(t, "alive", answer)
	answer, err = Health(t.Context(), p.options.Bootstrap.AdminAddress, true)
	require.NoError(t, err)
	require.Equal(t, "LIVE", answer)

	err = Run(t.Context(), p.options)
	require.ErrorContains(t, err, "admin address "+p.options.Bootstrap.AdminAddress+" is taken by another program", "before anything is told to the other's Envoy")
	require.NoError(t, page(t, p).do(t.Context(), "/healthcheck/fail"))
	require.Eventually(t, func() bool { return status(web, p.ready) == http.StatusServiceUnavailable }, patience, 5*time.Millisecond, "Envoy says so")

	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "waggle-envoy-*"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	p.signals <- syscall.SIGTERM
	require.NoError(t, p.end(t))
	require.NoDirExists(t, left[0])
	_, err = Health(t.Context(), p.options.Bootstrap.AdminAddress, false)
	require.ErrorContains(t, err, "ask Envoy's admin page")
}

// Without a control plane a proxy is alive and not ready: starting it anew would not help.
func TestAliveWithoutAControlPlane(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, freeAddress(t))
	o.Bootstrap.AdminAddress = freeAddress(t)
	o.Dir = t.TempDir()
	p := launch(t, c, o)
	require.Eventually(t, func() bool {
		_, err := Health(t.Context(), o.Bootstrap.AdminAddress, false)
		return err == nil
	}, patience, 5*time.Millisecond)
	_, err := Health(t.Context(), o.Bootstrap.AdminAddress, true)
	require.ErrorContains(t, err, "PRE_INITIALIZING")
	require.Equal(t, http.StatusServiceUnavailable, status(client(t), p.ready))
	require.FileExists(t, filepath.Join(o.Dir, "bootstrap.json"))

	o.ReadyAddress = ""
	require.ErrorContains(t, Run(t.Context(), o), "admin address "+o.Bootstrap.AdminAddress+" is taken by another program")
	p.signals <- syscall.SIGTERM
	require.NoError(t, p.end(t))
}

func TestACrashIsReported(t *testing.T) {
	c := newCollection(t, "dev")
	p := launch(t, c, options(t, c, controlPlane(t, backend(t), c))).isReady(t)
	m := regexp.MustCompile(`pid=(\d+)`).FindStringSubmatch(p.log.String())
	require.NotNil(t, m)
	pid, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	var ended *Ended
	require.ErrorAs(t, p.end(t), &ended)
	require.Equal(t, 137, ended.ExitCode())
	require.ErrorContains(t, ended, "Envoy ended by itself (killed by SIGKILL, as when the container's memory is used up)")
	require.NotContains(t, ended.Error(), "\n")
}

// Envoy opens its access logs anew on SIGUSR1.
func TestOtherSignalsAreHandedOn(t *testing.T) {
	c := newCollection(t, "dev")
	p := launch(t, c, options(t, c, controlPlane(t, backend(t), c))).isReady(t)
	web := client(t)
	require.FileExists(t, c.accessLog)
	require.NoError(t, os.Rename(c.accessLog, c.accessLog+".1"))
	p.signals <- syscall.SIGUSR1
	require.Eventually(t, func() bool {
		_, err := os.Stat(c.accessLog)
		return status(web, "http://"+c.http) == http.StatusOK && err == nil
	}, patience, 20*time.Millisecond)
}

func TestRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	sure := func() Options { return options(t, collection{name: "dev"}, "127.0.0.1:1") }
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"flag", func(o *Options) { o.Args = []string{"--nonsense"} }, "Envoy does not start: --nonsense -- Couldn't find match for argument"},
		{"flag's value", func(o *Options) { o.LogLevel = "loud" }, "Envoy does not start: error: invalid log level specified 'loud'"},
		{"bootstrap", func(o *Options) { o.Args = []string{"--config-yaml", "nonsense: 1"} }, "Envoy does not start: "},
		{"bootstrap that is not valid", func(o *Options) {
			o.Args = []string{"--config-yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 70000}}}"}
		}, "value must be less than or equal to 65535"},
		{"bootstrap file", func(o *Options) { o.Args = []string{"--config-path=/x"} }, "--config-path is not yours to give"},
		{"collection", func(o *Options) { o.Bootstrap.Collection = "Dev" }, "is not a collection name"},
		{"admin at any port", func(o *Options) { o.Bootstrap.AdminAddress = "127.0.0.1:0" }, "port 0 is any port"},
		{"admin taken", func(o *Options) { o.Bootstrap.AdminAddress = taken.Addr().String() }, "is taken by another program: stop it, or give another with --admin"},
		{"readiness taken", func(o *Options) { o.ReadyAddress = taken.Addr().String() }, "is taken by another program: stop it, or give another with --ready-address"},
		{"readiness nowhere", func(o *Options) { o.ReadyAddress = "8002" }, "give HOST:PORT with --ready-address"},
		{"binary", func(o *Options) { o.Binary = "/nowhere/envoy" }, "--envoy names /nowhere/envoy, which is no program that can be run"},
		{"binary that is none", func(o *Options) { o.Binary = notAProgram(t) }, "start Envoy: "},
		{"directory", func(o *Options) { o.Dir = "/nowhere" }, "give a writable directory with --dir"},
		{"delay", func(o *Options) { o.DrainDelay = o.Drain }, "the delay is part of the drain"},
		{"drain", func(o *Options) { o.Drain = -1 }, "the delay is part of the drain"},
		{"listener drain", func(o *Options) { o.ListenerDrain = -1 }, "use something from 0 to some days"},
		{"concurrency", func(o *Options) { o.Concurrency = -1 }, "use the number of worker threads"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			o := sure()
			tt.change(&o)
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			require.NoError(t, err)
			defer null.Close()
			o.Stdout, o.Stderr = null, null
			err = Run(t.Context(), o)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "\n")
			var ended *Ended
			require.NotErrorAs(t, err, &ended)
			left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "waggle-envoy-*"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
	t.Run("no temporary directory", func(t *testing.T) {
		t.Setenv("TMPDIR", "/nowhere")
		require.ErrorContains(t, Run(t.Context(), Options{Binary: envoyBinary(t), Bootstrap: bootstrap.Options{Collection: "dev", AdminAddress: "/nowhere/admin.sock"}}),
			"on a read-only root a tmpfs")
	})
}

func notAProgram(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "envoy")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o700))
	return file
}

func TestFind(t *testing.T) {
	fake := notAProgram(t)
	t.Run("named before ENVOY", func(t *testing.T) {
		t.Setenv("ENVOY", "/nowhere")
		path, err := Find(fake)
		require.NoError(t, err)
		require.Equal(t, fake, path)
	})
	t.Run("ENVOY", func(t *testing.T) {
		t.Setenv("ENVOY", fake)
		path, err := Find("")
		require.NoError(t, err)
		require.Equal(t, fake, path)
	})
	t.Run("ENVOY names nothing", func(t *testing.T) {
		t.Setenv("ENVOY", "/nowhere")
		_, err := Find("")
		require.ErrorContains(t, err, "the variable ENVOY names /nowhere, which is no program that can be run")
	})
	if _, err := os.Stat(image); err == nil {
		return // this machine has it where the rest would look first
	}
	t.Run("on the PATH", func(t *testing.T) {
		t.Setenv("ENVOY", "")
		t.Setenv("PATH", filepath.Dir(fake))
		path, err := Find("")
		require.NoError(t, err)
		require.Equal(t, fake, path)
	})
	t.Run("nowhere", func(t *testing.T) {
		t.Setenv("ENVOY", "")
		t.Setenv("PATH", t.TempDir())
		_, err := Find("")
		require.ErrorContains(t, err, "name the binary with --envoy or the variable ENVOY")
	})
}

func TestArguments(t *testing.T) {
	o := Options{Concurrency: 3, ListenerDrain: 1500 * time.Millisecond}
	args, err := arguments(o, "/b.json")
	require.NoError(t, err)
	require.Equal(t, strings.Fields("--config-path /b.json --disable-hot-restart --concurrency 3 --log-level warning --drain-strategy immediate --drain-time-s 2"), args)

	o.Args = []string{"--concurrency=9", "-l", "debug", "--drain-time-s", "7", "--use-dynamic-base-id"}
	args, err = arguments(o, "/b.json")
	require.NoError(t, err)
	require.Equal(t, strings.Fields("--config-path /b.json --disable-hot-restart --drain-strategy immediate --concurrency=9 -l debug --drain-time-s 7 --use-dynamic-base-id"), args)

	args, err = arguments(Options{}, "/b.json")
	require.NoError(t, err)
	require.Regexp(t, `--concurrency [1-9]\d* `, strings.Join(args, " "))
}

// As the first process of a container the launcher takes away the dead that others
// leave to it, and it ends well by a real signal.
func TestTheFirstProcessReaps(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	o := startOther(t, "first process", envoyBinary(t), r)
	orphan := o.pid(t, `^orphan (\d+)`)
	envoy := o.pid(t, `Envoy is started.* pid=(\d+)`)
	require.True(t, exists(orphan))
	require.NoError(t, w.Close())
	require.Eventually(t, func() bool { return !exists(orphan) }, patience, 5*time.Millisecond)
	require.True(t, exists(envoy))
	require.NoError(t, o.cmd.Process.Signal(syscall.SIGQUIT))
	o.reads(t, "Envoy has ended")
	require.NoError(t, o.cmd.Wait(), "exit code 0")
	require.False(t, exists(envoy))
}

func TestADeafEnvoyIsKilled(t *testing.T) {
	o := startOther(t, "launcher", self())
	envoy := o.pid(t, `Envoy is started.* pid=(\d+)`)
	ignores(t, envoy, syscall.SIGTERM)
	require.NoError(t, o.cmd.Process.Signal(syscall.SIGTERM))
	o.reads(t, "Envoy did not end after SIGTERM: killing it")
	o.reads(t, "Envoy has ended")
	require.NoError(t, o.cmd.Wait(), "exit code 0: it ended because it was told to")
	require.False(t, exists(envoy))
}

// ignores waits until a process does not hear a signal.
func ignores(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return false
		}
		_, after, _ := bytes.Cut(text, []byte("SigIgn:"))
		mask, err := strconv.ParseUint(string(bytes.TrimSpace(after[:bytes.IndexByte(after, '\n')])), 16, 64)
		return err == nil && mask&(1<<(uint(s)-1)) != 0
	}, patience, 5*time.Millisecond)
}

func TestNoEnvoyOutlivesItsLauncher(t *testing.T) {
	o := startOther(t, "launcher", self())
	envoy := o.pid(t, `Envoy is started.* pid=(\d+)`)
	require.NoError(t, o.cmd.Process.Kill())
	require.Error(t, o.cmd.Wait())
	require.Eventually(t, func() bool { return !exists(envoy) }, patience, 5*time.Millisecond)
}

func TestLastWords(t *testing.T) {
	for _, tt := range []struct{ name, log, want string }{
		{"nothing", "", ""},
		{"stamped", "[2026-01-01 00:00:00.000][1][info][main] [source/server/server.cc:1] one\n[2026-01-01 00:00:00.000][1][warning][main] [source/server/server.cc:1] two\n\n", "two"},
		{"end of a message", "x\n}\n: Proto constraint validation failed\n", "Proto constraint validation failed"},
		{"long", strings.Repeat("x", 3*tailSize), strings.Repeat("x", 1000)},
		{"long before", strings.Repeat("x\n", 3*tailSize) + "y", "y"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var copied bytes.Buffer
			l := &tail{to: &copied}
			for part := range strings.SplitAfterSeq(tt.log, "\n") {
				n, err := l.Write([]byte(part))
				require.NoError(t, err)
				require.Equal(t, len(part), n)
			}
			require.Equal(t, tt.want, l.last())
			require.Equal(t, tt.log, copied.String())
		})
	}
}
