package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Layered returns a Reader on several places with the same flags, the best one
// first: a shared store, then a copy of its last good state (see [LastGood]), then
// a file that was shipped with the program.
//
//	layers := store.Layered(redis, store.LastGood(copy), bootstrap)
//	defer layers.Close()
//
// The first place that has a state gives it, without waiting for those that do
// not answer, and a better one replaces it as soon as it has one. There is no way
// back: once a place has given its state, the worse ones are not asked any more,
// and when it fails Load does, too. So a process starts while its store is down,
// and never goes back in time. All readers of one Layers share that, so a program
// makes one when it starts. Snapshot.Layer says where a state came from and
// Snapshot.Degraded why it is not from the best place.
//
// The layers stay the caller's, who closes them after the result.
func Layered(first Reader, next ...Reader) *Layers {
	return NewLayers(LayerOptions{}, append([]Reader{first}, next...)...)
}

// LayerOptions tunes [NewLayers]. The zero value is useful.
type LayerOptions struct {
	// Patience is how long better places are waited for when a worse one has a
	// state already. Zero means 100 ms: a store that works should not lose a race
	// against a file.
	Patience time.Duration

	// Timeout bounds one call of a layer. Zero means 10 seconds.
	Timeout time.Duration

	// Logger gets what is wrong with a copy. Nil is silent.
	Logger *slog.Logger
}

// Named gives a layer the name that Snapshot.Layer has. Others are named for
// their position and type.
func Named(name string, r Reader) Reader { return namedLayer{r, name} }

type namedLayer struct {
	Reader
	name string
}

// LastGood makes a store a layer that keeps a copy of what better layers give,
// heartbeats included, for the next start of this process. Processes may share
// one if the store lets several of them write; those that may only read use it
// without keeping it. The copy is written in the background, and what goes wrong
// with that is logged.
func LastGood(st DataStore) Reader { return lastGood{st} }

type lastGood struct{ DataStore }

// Layers is what [Layered] returns. Its methods are safe for concurrent use.
type Layers struct {
	opts   LayerOptions
	layers []*layer
	turn   chan struct{} // capacity 1: one Load at a time
	ctx    context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex    // guards what follows, and the layers' loads
	best int           // the layer that gave the last state; len(layers) before that
	news chan struct{} // closed and replaced when a load ends
	late chan struct{} // the same, if nobody waits for that
}

var (
	_ Reader          = (*Layers)(nil)
	_ Watcher         = (*Layers)(nil)
	_ HeartbeatReader = (*Layers)(nil)
	_ ControlReader   = (*Layers)(nil)
	_ ReportWriter    = (*Layers)(nil)
)

// A layer is one place.
type layer struct {
	name   string
	reader Reader
	keeper *keeper    // nil unless it is a copy
	load   *layerLoad // under way, or not taken yet
	err    error      // of the last load that ended
}

// A layerLoad is one call of a layer's Load. The other fields count once done is
// closed.
type layerLoad struct {
	since Rev
	late  bool // nobody waits for it; the layers' mu guards it
	done  chan struct{}
	snap  Snapshot
	err   error
}

func (l *layerLoad) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// NewLayers is [Layered] with options. There must be at least one layer.
func NewLayers(o LayerOptions, layers ...Reader) *Layers {
	if o.Patience <= 0 {
		o.Patience = 100 * time.Millisecond
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Layers{opts: o, best: len(layers), turn: make(chan struct{}, 1), news: make(chan struct{}), late: make(chan struct{})}
	l.ctx, l.end = context.WithCancel(context.Background())
	for i, r := range layers {
		la := &layer{name: fmt.Sprintf("%d (%T)", i+1, r)}
		if n, ok := r.(namedLayer); ok {
			la.name, r = n.name, n.Reader
		}
		if c, ok := r.(lastGood); ok {
			r = c.DataStore
			if _, named := layers[i].(namedLayer); !named {
				la.name = fmt.Sprintf("%d (copy in %T)", i+1, r)
			}
			la.keeper = newKeeper(l, la.name, c.DataStore)
			l.wg.Go(la.keeper.run)
		}
		la.reader = r
		l.layers = append(l.layers, la)
	}
	return l
}

// Close ends what the layers are asked and waits for it. A copy is completed
// first, for up to a second. The layers themselves stay open. It returns nil.
func (l *Layers) Close() error {
	for _, la := range l.layers {
		if la.keeper != nil {
			la.keeper.finish(time.Second)
		}
	}
	l.mu.Lock() // ask starts nothing from here on
	l.end()
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

func (l *Layers) usable(ctx context.Context) error {
	if l.ctx.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// Load implements [Reader].
func (l *Layers) Load(ctx context.Context, since Rev) (Snapshot, error) {
	if err := l.usable(ctx); err != nil {
		return Snapshot{}, fmt.Errorf("layers: load: %w", err)
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return Snapshot{}, fmt.Errorf("layers: load: %w", ctx.Err())
	case <-l.ctx.Done():
		return Snapshot{}, fmt.Errorf("layers: load: %w", ErrClosed)
	}
	loads, fresh, err := l.ask(since)
	if err != nil {
		return Snapshot{}, fmt.Errorf("layers: load: %w", err)
	}
	chosen, err := l.wait(ctx, loads, fresh)
	if err != nil {
		return Snapshot{}, fmt.Errorf("layers: load: %w", err)
	}
	return l.take(loads, chosen)
}

// ask starts the loads of all layers that are not worse than the best one so far,
// unless they are under way, and says which it started.
func (l *Layers) ask(since Rev) (loads []*layerLoad, fresh []bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return nil, nil, ErrClosed
	}
	n := min(l.best+1, len(l.layers))
	loads, fresh = make([]*layerLoad, n), make([]bool, n)
	for i, la := range l.layers[:n] {
		inner := Rev("")
		if at, rev, ok := splitRev(since); ok && at == i {
			inner = rev
		}
		// What another caller asked is no answer to this one.
		if la.load == nil || la.load.since != inner {
			la.load, fresh[i] = &layerLoad{since: inner, done: make(chan struct{})}, true
			load := la.load
			l.wg.Go(func() { l.run(la, load) })
		}
		loads[i] = la.load
	}
	return loads, fresh, nil
}

// run makes one call of a layer.
func (l *Layers) run(la *layer, load *layerLoad) {
	ctx, cancel := context.WithTimeout(l.ctx, l.opts.Timeout)
	defer cancel()
	load.snap, load.err = la.reader.Load(ctx, load.since)
	l.mu.Lock()
	defer l.mu.Unlock()
	la.err = load.err
	close(load.done)
	close(l.news)
	l.news = make(chan struct{})
	if load.late {
		close(l.late)
		l.late = make(chan struct{})
	}
}

// wait returns the layer whose state is to be given: the best one that has one, of
// those that answer in time; or -1 if none has.
func (l *Layers) wait(ctx context.Context, loads []*layerLoad, fresh []bool) (int, error) {
	var patience <-chan time.Time
	for {
		l.mu.Lock()
		news := l.news
		l.mu.Unlock()
		chosen, worth := -1, false // worth: somebody better may still answer in time
		pending := false
		for i, load := range loads {
			if !load.ended() {
				pending = true
				worth = worth || fresh[i]
				continue
			}
			if load.err == nil && load.snap.Rev != "" {
				chosen = i
				break
			}
		}
		if chosen >= 0 && !worth || !pending {
			return chosen, nil
		}
		if chosen >= 0 && patience == nil {
			t := time.NewTimer(l.opts.Patience)
			defer t.Stop()
			patience = t.C
		}
		select {
		case <-news:
		case <-patience:
			return chosen, nil
		case <-ctx.Done():
			return -1, ctx.Err()
		case <-l.ctx.Done():
			return -1, ErrClosed
		}
	}
}

// take turns the outcome of the loads into a Snapshot.
func (l *Layers) take(loads []*layerLoad, chosen int) (Snapshot, error) {
	var why []error
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, load := range loads { // a better one may have answered this moment
		if load.ended() && load.err == nil && load.snap.Rev != "" {
			chosen = i
			break
		}
	}
	for i, load := range loads {
		la := l.layers[i]
		switch {
		case i == chosen:
		case chosen >= 0 && i > chosen:
			la.load = nil // nor will it be asked again
			continue
		case !load.ended():
			load.late = true
			err := la.err
			if err == nil {
				err = errors.New("no answer yet")
			}
			why = append(why, fmt.Errorf("%s: %w", la.name, err))
			continue
		case load.err != nil:
			why = append(why, fmt.Errorf("%s: %w", la.name, load.err))
		case chosen >= 0:
			why = append(why, fmt.Errorf("%s: it is empty", la.name))
		}
		la.load = nil // it had its say
	}
	if chosen < 0 {
		// An empty store among others that fail says nothing; but if all are
		// empty, or the one that gave its state was emptied, that is the state.
		if len(why) == 0 {
			return Snapshot{}, nil
		}
		return Snapshot{}, fmt.Errorf("layers: load: %w", errors.Join(why...))
	}
	snap, since := loads[chosen].snap, loads[chosen].since
	l.best = chosen
	for _, la := range l.layers[chosen+1:] {
		if la.keeper != nil {
			la.keeper.give(snap, chosen, since)
		}
	}
	snap.Rev = joinRev(chosen, snap.Rev)
	snap.Layer = l.layers[chosen].name
	snap.Degraded = errors.Join(why...)
	return snap, nil
}

// joinRev makes the revision of a layer one of the whole.
func joinRev(layer int, rev Rev) Rev { return Rev(strconv.Itoa(layer) + ":" + string(rev)) }

func splitRev(rev Rev) (layer int, inner Rev, ok bool) {
	before, after, ok := strings.Cut(string(rev), ":")
	if !ok {
		return 0, "", false
	}
	n, err := strconv.Atoi(before)
	return n, Rev(after), err == nil
}

// Watch implements [Watcher]: it wakes for the layers that count and can be
// watched, and when one that was too slow for a Load has answered. What ends the
// watching of one layer is tried again; Load tells what is wrong with it.
func (l *Layers) Watch(ctx context.Context, wake func()) error {
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("layers: watch: %w", err)
	}
	inner, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(l.ctx, cancel)()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	woken := make(chan struct{}, 1)
	for i, la := range l.layers {
		if w, ok := la.reader.(Watcher); ok {
			wg.Go(func() { l.watch(inner, i, w, woken) })
		}
	}
	for {
		l.mu.Lock()
		late := l.late
		l.mu.Unlock()
		wake()
		select {
		case <-late:
		case <-woken:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return fmt.Errorf("layers: watch: %w", ErrClosed)
		}
	}
}

func (l *Layers) watch(ctx context.Context, i int, w Watcher, woken chan<- struct{}) {
	for failures := 1; ; failures++ {
		began := time.Now()
		err := w.Watch(ctx, func() {
			l.mu.Lock()
			counts := i <= l.best
			l.mu.Unlock()
			if !counts {
				return // a copy that is being written
			}
			select {
			case woken <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return
		}
		if time.Since(began) > time.Minute {
			failures = 1
		}
		if !sleep(ctx, Backoff(failures, 50*time.Millisecond, 5*time.Second)) {
			return
		}
	}
}

// ReadHeartbeat implements [HeartbeatReader]: it is that of the layer which gave
// the last state, and the zero one if that has none.
func (l *Layers) ReadHeartbeat(ctx context.Context) (Heartbeat, error) {
	if err := l.usable(ctx); err != nil {
		return Heartbeat{}, fmt.Errorf("layers: read heartbeat: %w", err)
	}
	l.mu.Lock()
	best := l.best
	l.mu.Unlock()
	if best == len(l.layers) {
		return Heartbeat{}, nil
	}
	r, ok := l.layers[best].reader.(HeartbeatReader)
	if !ok {
		return Heartbeat{}, nil
	}
	h, err := r.ReadHeartbeat(ctx)
	if err != nil {
		return Heartbeat{}, fmt.Errorf("layers: %s: %w", l.layers[best].name, err)
	}
	for _, la := range l.layers[best+1:] {
		if la.keeper != nil && !h.Written.IsZero() {
			la.keeper.giveHeartbeat(h)
		}
	}
	return h, nil
}

// ReadControl implements [ControlReader]: it is that of the layer which gave the
// last state, and the zero one if that has none.
func (l *Layers) ReadControl(ctx context.Context) (Control, error) {
	if err := l.usable(ctx); err != nil {
		return Control{}, fmt.Errorf("layers: read control: %w", err)
	}
	l.mu.Lock()
	best := l.best
	l.mu.Unlock()
	if best == len(l.layers) {
		return Control{}, nil
	}
	r, ok := l.layers[best].reader.(ControlReader)
	if !ok {
		return Control{}, nil
	}
	c, err := r.ReadControl(ctx)
	if err != nil {
		return Control{}, fmt.Errorf("layers: %s: %w", l.layers[best].name, err)
	}
	return c, nil
}

// WriteReport implements [ReportWriter]: the first layer that takes reports gets
// it. A state from another layer is none of that one's, so its Rev is left out. The
// error wraps [errors.ErrUnsupported] if no layer takes any.
func (l *Layers) WriteReport(ctx context.Context, r Report) error {
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("layers: write report: %w", err)
	}
	for i, la := range l.layers {
		w, ok := la.reader.(ReportWriter)
		if !ok || la.keeper != nil {
			continue
		}
		at, inner, ok := splitRev(r.Rev)
		if r.Rev = ""; ok && at == i {
			r.Rev = inner
		}
		if err := w.WriteReport(ctx, r); err != nil {
			return fmt.Errorf("layers: %s: %w", la.name, err)
		}
		return nil
	}
	return fmt.Errorf("layers: write report: %w", errors.ErrUnsupported)
}
