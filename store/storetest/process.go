package storetest

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

// childEnv makes a test binary the other process of a case.
const childEnv = "STORETEST_CHILD"

// Child lets the suite use other processes: call it before anything else in the
// TestMain of a test that sets [Options.Place].
//
//	func TestMain(m *testing.M) {
//		storetest.Child(func(place string, write bool) (store.DataStore, error) {
//			return mystore.Open(place)
//		})
//		os.Exit(m.Run())
//	}
//
// It returns at once, unless the suite started this very process. Then it opens
// the place that Options.Place named, for reading only if write is false, does
// what the suite asks of the handle, and exits with its parent at the latest.
// Handles that implement [store.Watcher], or the interfaces of heartbeats, are
// used as such.
func Child(open func(place string, write bool) (store.DataStore, error)) {
	mode, place, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		return
	}
	out := os.Stdout
	os.Stdout = os.Stderr // what else is printed must not get between the replies
	s, err := open(place, mode == "write")
	serve(os.Stdin, out, s, err)
	os.Exit(0)
}

// A request asks the other process for one call.
type request struct {
	ID     int64
	Op     string
	Since  store.Rev
	Change store.Change
	Beat   store.Heartbeat
}

// A reply is the result of the call of that ID, or a wake of its Watch. The one
// with ID 0 is sent first and says whether the store could be opened.
type reply struct {
	ID    int64
	Wake  bool
	Rev   store.Rev
	Delta bool
	Items []store.Item
	Beat  store.Heartbeat
	Err   string
	Is    []int // indexes into sentinels
}

// sentinels are the errors that survive the way between processes.
var sentinels = []error{
	store.ErrConflict, store.ErrClosed, store.ErrDamaged, store.ErrReadOnly, context.Canceled, context.DeadlineExceeded,
}

// A remoteError is an error of the other process.
type remoteError struct {
	text string
	is   []int
}

func (e remoteError) Error() string { return "in another process: " + e.text }

func (e remoteError) Is(target error) bool {
	for _, i := range e.is {
		if i < len(sentinels) && sentinels[i] == target {
			return true
		}
	}
	return false
}

func (r *reply) fail(err error) {
	if err == nil {
		return
	}
	r.Err = err.Error()
	for i, s := range sentinels {
		if errors.Is(err, s) {
			r.Is = append(r.Is, i)
		}
	}
}

func (r reply) err() error {
	if r.Err == "" {
		return nil
	}
	return remoteError{r.Err, r.Is}
}

// serve answers requests until in ends.
func serve(in io.Reader, out io.Writer, s store.DataStore, openErr error) {
	var mu sync.Mutex // guards what follows
	enc := gob.NewEncoder(out)
	cancels := map[int64]context.CancelFunc{}

	send := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		// Without a parent there is nobody to tell.
		_ = enc.Encode(r)
	}
	var hello reply
	hello.fail(openErr)
	send(hello)
	if openErr != nil {
		return
	}
	for dec := gob.NewDecoder(in); ; {
		var q request
		if dec.Decode(&q) != nil {
			return
		}
		mu.Lock()
		if q.Op == "cancel" {
			if cancel := cancels[q.ID]; cancel != nil {
				cancel()
			}
			mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancels[q.ID] = cancel
		mu.Unlock()
		go func() { // ends with the process at the latest
			r := answer(ctx, s, q, func() { send(reply{ID: q.ID, Wake: true}) })
			mu.Lock()
			delete(cancels, q.ID)
			mu.Unlock()
			cancel()
			send(r)
		}()
	}
}

func answer(ctx context.Context, s store.DataStore, q request, wake func()) reply {
	r := reply{ID: q.ID}
	var err error
	switch q.Op {
	case "load":
		var snap store.Snapshot
		snap, err = s.Load(ctx, q.Since)
		r.Rev, r.Delta, r.Items = snap.Rev, snap.Delta, snap.Items
	case "apply":
		r.Rev, err = s.Apply(ctx, q.Change)
	case "watch":
		err = errors.New("the handle is no store.Watcher")
		if w, ok := s.(store.Watcher); ok {
			err = w.Watch(ctx, wake)
		}
	case "beat":
		err = errors.New("the handle is no store.HeartbeatReader")
		if h, ok := s.(store.HeartbeatReader); ok {
			r.Beat, err = h.ReadHeartbeat(ctx)
		}
	case "close":
		err = s.Close()
	default:
		err = fmt.Errorf("unknown request %q", q.Op)
	}
	r.fail(err)
	return r
}

// errGone says that the other process does not live any more.
var errGone = errors.New("the other process is gone")

// A process is a handle in another process.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	hello chan reply
	gone  chan struct{} // closed when the process has ended

	sending sync.Mutex // guards enc
	enc     *gob.Encoder

	mu     sync.Mutex // guards what follows, and is held while a wake is called
	lastID int64
	calls  map[int64]pending
}

type pending struct {
	done chan reply
	wake func()
}

// startProcess starts this test binary again, as a handle on place.
func startProcess(place string, write bool) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	mode := "read"
	if write {
		mode = "write"
	}
	// If TestMain does not call Child, there must be no test that runs again.
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+mode+" "+place)
	cmd.Stderr = os.Stderr
	p := &process{cmd: cmd, hello: make(chan reply, 1), gone: make(chan struct{}), calls: map[int64]pending{}}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.enc = gob.NewEncoder(p.stdin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.receive(out)
	return p, nil
}

// receive owns the process: it hands out its replies and waits for its end.
func (p *process) receive(out io.Reader) {
	defer close(p.gone)
	for dec, first := gob.NewDecoder(out), true; ; first = false {
		var r reply
		if err := dec.Decode(&r); err != nil {
			if first {
				p.hello <- reply{Err: "no answer, does TestMain call storetest.Child before anything else? (" + err.Error() + ")"}
			}
			break
		}
		if first {
			p.hello <- r
			continue
		}
		p.mu.Lock()
		call, ok := p.calls[r.ID]
		switch {
		case ok && r.Wake && call.wake != nil:
			call.wake()
		case ok && !r.Wake:
			delete(p.calls, r.ID)
			call.done <- r
		}
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, out)
	_ = p.cmd.Wait() // how it ended is known: it was told to, or killed
}

// kill ends the process as kill -9 does, and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

func (p *process) send(q request) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	return p.enc.Encode(q)
}

func (p *process) call(ctx context.Context, q request, wake func()) (reply, error) {
	done := make(chan reply, 1)
	p.mu.Lock()
	p.lastID++
	q.ID = p.lastID
	p.calls[q.ID] = pending{done, wake}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.calls, q.ID)
	}()
	if err := p.send(q); err != nil {
		return reply{}, fmt.Errorf("%w: %w", errGone, err)
	}
	select {
	case r := <-done:
		return r, r.err()
	case <-ctx.Done():
		_ = p.send(request{ID: q.ID, Op: "cancel"})
		return reply{}, ctx.Err()
	case <-p.gone:
	}
	select { // it may have answered before it ended
	case r := <-done:
		return r, r.err()
	default:
		return reply{}, errGone
	}
}

func (p *process) Load(ctx context.Context, since store.Rev) (store.Snapshot, error) {
	r, err := p.call(ctx, request{Op: "load", Since: since}, nil)
	if err != nil {
		return store.Snapshot{}, err
	}
	return store.Snapshot{Rev: r.Rev, Delta: r.Delta, Items: r.Items}, nil
}

func (p *process) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	r, err := p.call(ctx, request{Op: "apply", Change: c}, nil)
	return r.Rev, err
}

func (p *process) Watch(ctx context.Context, wake func()) error {
	_, err := p.call(ctx, request{Op: "watch"}, wake)
	return err
}

func (p *process) ReadHeartbeat(ctx context.Context) (store.Heartbeat, error) {
	r, err := p.call(ctx, request{Op: "beat"}, nil)
	return r.Beat, err
}

// Close closes the handle of the process, ends the process and waits for that.
func (p *process) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_, err := p.call(ctx, request{Op: "close"}, nil)
	p.stdin.Close()
	p.kill()
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// process starts another process with a handle on the place, which lives until
// the case ends.
func (c *tester) process(write bool) *process {
	p, err := startProcess(c.place, write)
	if err != nil {
		c.fatalf("cannot start another process: %v", err)
	}
	c.mu.Lock()
	c.processes = append(c.processes, p)
	c.mu.Unlock()
	limit := time.NewTimer(c.opts.Patience)
	defer limit.Stop()
	select {
	case r := <-p.hello:
		if err := r.err(); err != nil {
			c.fatalf("a handle in another process: %v", err)
		}
	case <-limit.C:
		c.fatalf("another process did not open a handle within %v", c.opts.Patience)
	}
	return p
}

// endProcesses kills what other processes there are.
func (c *tester) endProcesses() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.processes {
		p.stdin.Close()
		p.kill()
	}
	c.processes = nil
}
