package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// How much is kept of a run, however long and bad it is.
const (
	maxFailures = 1000 // failures with their text; then the older half is forgotten
	maxReported = 20   // of them in one report
	maxNames    = 256  // different tasks, services and outcomes; the rest is "other"
)

// counts is what a run adds to.
type counts struct {
	mu       sync.Mutex
	began    time.Time
	total    tally
	failures []Failure // the newest, in the order in which they ended
}

// tally only ever grows, so that the difference of two is what happened in between.
type tally struct {
	requests, failed uint64
	outcomes         map[string]uint64
	services, tasks  map[string]uint64
	latency, wasted  histogram // of good answers, and of the others
}

// Failure is one failed request.
type Failure struct {
	At     time.Time
	Took   time.Duration
	Status int    // 0: no answer
	Task   string // who answered, if anyone
	Text   string
}

func (f Failure) String() string {
	by := ""
	if f.Task != "" {
		by = " by " + f.Task
	}
	return fmt.Sprintf("%s after %v%s: %s", f.At.Format("15:04:05.000"), f.Took.Round(time.Millisecond), by, f.Text)
}

// Report is what happened between a Mark and now.
type Report struct {
	Requests uint64 // finished
	Failed   uint64
	Elapsed  time.Duration
	// Outcomes counts answers by status ("200") and errors by class ("timeout", "refused",
	// "reset", "closed", "not sent", "wrong answer", "error").
	Outcomes map[string]uint64
	Services map[string]uint64 // good answers by service
	Tasks    map[string]uint64 // good answers by task
	// Latency of good answers, to within 5 %; 0 without any.
	P50, P90, P99, Max time.Duration
	// Longest is what any request took, also one that failed; to within 5 %.
	Longest time.Duration
	// Failures are the first ones since the mark, at most 20.
	Failures []Failure

	latency, wasted histogram
}

// Merge is what several runs did together, their latencies included. Elapsed is the longest.
func Merge(reports ...Report) Report {
	sum := Report{Outcomes: map[string]uint64{}, Services: map[string]uint64{}, Tasks: map[string]uint64{}}
	add := func(to, from map[string]uint64) {
		for k, n := range from {
			to[k] += n
		}
	}
	for _, r := range reports {
		sum.Requests += r.Requests
		sum.Failed += r.Failed
		sum.Elapsed = max(sum.Elapsed, r.Elapsed)
		add(sum.Outcomes, r.Outcomes)
		add(sum.Services, r.Services)
		add(sum.Tasks, r.Tasks)
		for i, n := range r.latency {
			sum.latency[i] += n
		}
		for i, n := range r.wasted {
			sum.wasted[i] += n
		}
		sum.Failures = append(sum.Failures, r.Failures...)
	}
	slices.SortStableFunc(sum.Failures, func(a, b Failure) int { return a.At.Compare(b.At) })
	sum.Failures = sum.Failures[:min(len(sum.Failures), maxReported)]
	sum.quantiles()
	return sum
}

func (r *Report) quantiles() {
	r.P50, r.P90 = r.latency.quantile(0.50), r.latency.quantile(0.90)
	r.P99, r.Max = r.latency.quantile(0.99), r.latency.quantile(1)
	r.Longest = max(r.Max, r.wasted.quantile(1))
}

// Rate is requests per second.
func (r Report) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Requests) / r.Elapsed.Seconds()
}

// Mark is a moment of a run.
type Mark struct {
	at    time.Time
	total tally
}

// Mark remembers this moment for Since.
func (r *Run) Mark() Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Mark{at: time.Now(), total: r.total.clone()}
}

// Since reports what finished after m; the zero Mark is the run's beginning.
func (r *Run) Since(m Mark) Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.at.IsZero() {
		m.at = r.began
	}
	rep := Report{
		Requests: r.total.requests - m.total.requests,
		Failed:   r.total.failed - m.total.failed,
		Elapsed:  time.Since(m.at),
		Outcomes: minus(r.total.outcomes, m.total.outcomes),
		Services: minus(r.total.services, m.total.services),
		Tasks:    minus(r.total.tasks, m.total.tasks),
		latency:  r.total.latency.minus(m.total.latency),
		wasted:   r.total.wasted.minus(m.total.wasted),
	}
	rep.quantiles()
	for _, f := range r.failures {
		if len(rep.Failures) == maxReported {
			break
		}
		if !f.At.Add(f.Took).Before(m.at) {
			rep.Failures = append(rep.Failures, f)
		}
	}
	return rep
}

func (c *counts) succeed(began time.Time, status int, service, task string) {
	took := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.requests++
	count(&c.total.outcomes, strconv.Itoa(status))
	if service != "" {
		count(&c.total.services, service)
	}
	if task != "" {
		count(&c.total.tasks, task)
	}
	c.total.latency[bucket(took)]++
}

func (c *counts) fail(began time.Time, status int, task string, err error) {
	f := Failure{At: began, Took: time.Since(began), Status: status, Task: task, Text: err.Error()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.requests++
	c.total.failed++
	c.total.wasted[bucket(f.Took)]++
	count(&c.total.outcomes, class(status, err))
	if len(c.failures) == maxFailures {
		c.failures = append(c.failures[:0], c.failures[maxFailures/2:]...)
	}
	c.failures = append(c.failures, f)
}

func count(m *map[string]uint64, name string) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	if _, known := (*m)[name]; !known && len(*m) >= maxNames {
		name = "other"
	}
	(*m)[name]++
}

func (t tally) clone() tally {
	t.outcomes, t.services, t.tasks = maps.Clone(t.outcomes), maps.Clone(t.services), maps.Clone(t.tasks)
	return t
}

func minus(now, then map[string]uint64) map[string]uint64 {
	d := map[string]uint64{}
	for k, n := range now {
		if n > then[k] {
			d[k] = n - then[k]
		}
	}
	return d
}

// connectionError takes the client's wrapping off err ("Get "http://…": …"), and says
// whether the connection was new: a reset of one that was kept alive is another story.
func connectionError(err error, reused bool) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if reused {
		return fmt.Errorf("on a kept-alive connection: %w", err)
	}
	return err
}

// errNotSent is a request for which there was no room.
var errNotSent = errors.New("not sent")

// class puts a failure into one of few drawers.
func class(status int, err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errNotSent):
		return "not sent"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case status == 200:
		return "wrong answer"
	case status != 0:
		return strconv.Itoa(status)
	default:
		return "error"
	}
}

// histogram counts durations in buckets that grow by 5 % from 10 µs to beyond an hour.
type histogram [420]uint64

const (
	firstBucket = 10 * time.Microsecond
	growth      = 1.05
)

func bucket(d time.Duration) int {
	if d <= firstBucket {
		return 0
	}
	i := int(math.Ceil(math.Log(float64(d)/float64(firstBucket)) / math.Log(growth)))
	return min(i, len(histogram{})-1)
}

func (h histogram) minus(o histogram) histogram {
	for i := range h {
		h[i] -= o[i]
	}
	return h
}

// quantile gives the upper edge of the bucket that the quantile falls into; 0 of nothing.
func (h histogram) quantile(q float64) time.Duration {
	var n uint64
	for _, c := range h {
		n += c
	}
	if n == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(n))))
	for i, c := range h {
		if c >= rank {
			return time.Duration(float64(firstBucket) * math.Pow(growth, float64(i)))
		}
		rank -= c
	}
	return 0 // not reached: the ranks add up to n
}
