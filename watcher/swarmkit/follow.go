package swarmkit

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"github.com/waggle-lb/waggle/watcher"
)

// follow keeps the book by what the stream brings, and tells it. Its one goroutine
// owns the book; only one of these happens at a time:
//
//  1. a message comes: one transaction of the store, or several at once;
//  2. a check is due, or somebody asks: a list is begun;
//  3. a list has come: what it knows and the book does not is owed by the stream;
//  4. what is owed has not come in time: the stream is silent;
//  5. the stream ends, or ctx does.
func (s *stream) follow(ctx context.Context, b *book, resumed bool, questions <-chan uint64, tell func(watcher.TaskUpdate) bool) error {
	c := &checker{stream: s, book: b, lists: make(chan listed, 1), due: time.NewTimer(s.Timing.Check), late: time.NewTimer(time.Hour)}
	c.late.Stop()
	defer c.due.Stop()
	defer c.late.Stop()
	if resumed {
		c.begin(ctx, 0) // there should be no gap: see that there is none
	} else if !tell(watcher.TaskUpdate{Tasks: b.tasksByService(), Listed: true}) {
		return nil
	}
	for {
		changed := false
		select {
		case <-ctx.Done():
			return nil
		case m := <-s.messages:
			changed = s.take(b, m)
		case n := <-questions:
			c.begin(ctx, n)
		case <-c.due.C:
			c.begin(ctx, 0)
		case l := <-c.lists:
			if l.err != nil {
				return l.err
			}
			c.took(ctx, l)
		case <-c.late.C:
			return s.sentence(&silentError{len(c.debt.reach) + len(c.debt.leave), s.Timing.Lag})
		case err := <-s.ended:
			return &cut{s.sentence(err)}
		}
		n, settled := c.settled()
		if (changed || settled) && !tell(watcher.TaskUpdate{Tasks: b.tasksByService(), Listed: settled, Confirmed: n}) {
			return nil
		}
	}
}

// take notes a message and those that already wait behind it.
func (s *stream) take(b *book, m *api.WatchMessage) (changed bool) {
	const most = 1000
	for range most {
		changed = b.message(m) || changed
		select {
		case m = <-s.messages:
		default:
			return changed
		}
	}
	return b.message(m) || changed
}

// cut is the end of a stream that had begun; it may be taken up again.
type cut struct{ error }

// checker compares the book with lists.
type checker struct {
	*stream
	book *book

	lists   chan listed // capacity 1
	asking  bool        // a list is under way
	waiting uint64      // a question that came meanwhile, and is asked next

	debt     *debt  // what the stream owes since the last list; nil: nothing is being checked
	question uint64 // what debt answers

	due, late *time.Timer
}

type listed struct {
	tasks    []*api.Task
	question uint64
	err      error
}

// begin asks for a list.
func (c *checker) begin(ctx context.Context, question uint64) {
	c.waiting = max(c.waiting, question)
	if c.asking || c.debt != nil {
		return // that list may have been made before the question was
	}
	c.asking, question, c.waiting = true, c.waiting, 0
	c.book.checkBegins()
	c.work.Go(func() {
		tasks, err := c.list(ctx, checked, c.Timing.Timeout)
		c.lists <- listed{tasks, question, err}
	})
}

func (c *checker) took(ctx context.Context, l listed) {
	c.asking = false
	c.debt, c.question = c.book.compare(l.tasks), l.question
	c.late.Reset(c.Timing.Lag)
}

// settled reports whether everything that was owed has just come, and the question that this answers.
func (c *checker) settled() (uint64, bool) {
	if c.debt == nil || !c.book.settle(c.debt) {
		return 0, false
	}
	answered := c.question
	c.debt = nil
	c.late.Stop()
	if c.waiting != 0 {
		c.due.Reset(0)
	} else {
		c.due.Reset(c.Timing.Check)
	}
	return answered, true
}

// silentError is a stream that does not tell what a list knows.
type silentError struct {
	tasks int
	lag   time.Duration
}

func (e *silentError) Error() string {
	return fmt.Sprintf("%d changes of tasks have not come within %v", e.tasks, e.lag)
}
