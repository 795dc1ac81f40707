package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

const (
	// chunkSize is how much of a full change goes up in one command. Others get
	// their turn between the chunks.
	chunkSize = 128 << 10

	// inFlight is how many chunks are on their way at once, in both directions.
	inFlight = 2

	// stageLife is how long a staged hash outlives its last chunk.
	stageLife = time.Minute

	// fullTries bounds how often a full change is compared with a content that
	// others keep changing.
	fullTries = 4
)

// Apply implements [store.Writer]. Redis decides how durable a commit is: with
// its usual settings the last second of commits may be lost with the server.
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if s.featbit != nil {
		return s.featbit.apply(ctx, c)
	}
	rev, err := s.apply(ctx, c)
	if err != nil {
		return "", s.wrap("change", err)
	}
	s.warn(ctx)
	return rev, nil
}

func (s *Store) apply(ctx context.Context, c store.Change) (store.Rev, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	for _, it := range c.Items {
		switch {
		case it.Kind != store.Flag && it.Kind != store.Segment:
			return "", fmt.Errorf("item %.80q has the invalid %v", it.Key, it.Kind)
		case it.Key == "":
			return "", fmt.Errorf("a %v without a key", it.Kind)
		case it.Version >= 1<<53 || it.Version <= -1<<53:
			return "", fmt.Errorf("%v %.80q has version %d, beyond 2^53", it.Kind, it.Key, it.Version)
		}
	}
	if c.Full {
		return s.full(ctx, c)
	}
	args := append(make([]any, 0, 4+2*len(c.Items)), s.commitArgs(c)...)
	for _, it := range c.Items {
		args = append(args, fieldOf(it), valueOf(it))
	}
	m := s.history.mark()
	return s.committed(m)(s.run(ctx, s.command(patchScript), []string{s.data, s.sorted, s.control}, args...))
}

// commitArgs are the first arguments of the scripts that commit.
func (s *Store) commitArgs(c store.Change) []any {
	return []any{string(c.Base), randomHex(), s.topic, flagOf(c.Override)}
}

// committed returns what takes the answer to a commit that began at m.
func (s *Store) committed(m mark) func([]string, error) (store.Rev, error) {
	return func(reply []string, err error) (store.Rev, error) {
		if err != nil {
			return "", err
		}
		if len(reply) == 3 && reply[0] == "ok" {
			base, known := parseRev(store.Rev(reply[2]))
			if at, ok := parseRev(store.Rev(reply[1])); ok && (known || reply[2] == "") {
				s.history.applied(m, base, at)
				return store.Rev(reply[1]), nil
			}
			if reply[1] == "" { // nothing was written to an empty place
				return "", nil
			}
		}
		return "", fmt.Errorf("unexpected answer %.80q of a script", reply)
	}
}

// full stages the new content under a key of its own and then puts it in place,
// so that the server is never busy with all of it at once.
func (s *Store) full(ctx context.Context, c store.Change) (store.Rev, error) {
	if !c.Override {
		// The script decides; this saves the way there with all the items.
		control, err := s.ReadControl(ctx)
		switch {
		case err != nil:
			return "", err
		case control.Frozen:
			return "", store.ErrFrozen
		}
	}
	items := dedupe(c.Items)
	digest := digestOf(items)
	stage := ""
	for try := 1; ; try++ {
		m := s.history.mark()
		rev, same, err := s.compare(ctx, items, digest, c.Base != "")
		if err != nil && !errors.Is(err, ErrDamaged) {
			return "", err
		}
		damaged := err != nil
		if !damaged && c.Conflicts(rev) {
			return "", store.ErrConflict
		}
		// An equal content that the server fell back to gets a new revision, so that
		// readers who saw more can tell.
		at, _ := parseRev(rev)
		if same && !s.history.behind(at) {
			s.history.applied(m, at, at)
			return rev, nil
		}
		if stage == "" {
			stage = s.stage + randomHex()
			if err := s.upload(ctx, stage, items); err != nil {
				s.discard(ctx, stage)
				return "", err
			}
		}
		differs := string(rev)
		if damaged || try == fullTries {
			// Others write faster than this can compare. The worst that can
			// happen is a new revision of an equal content.
			differs = "*"
		}
		reply, err := s.run(ctx, s.command(fullScript), []string{s.data, s.sorted, s.control, stage},
			append(s.commitArgs(c), digest, len(items), differs)...)
		if err == nil && reply[0] == "again" {
			continue
		}
		if err == nil && reply[0] == "incomplete" {
			s.discard(ctx, stage)
			return "", errors.New("the staged content expired or was evicted before it was complete")
		}
		return s.committed(m)(reply, err)
	}
}

// compare returns the current revision and whether its content is items. The
// digest names what was written. What somebody made of it by hand only the
// content itself tells, so trust is for callers who know the content.
func (s *Store) compare(ctx context.Context, items []store.Item, digest string, trust bool) (rev store.Rev, same bool, err error) {
	h, err := s.ask(ctx, position{})
	if err != nil || h.state == "empty" {
		return "", false, err
	}
	if h.n != len(items) || h.digest != "" && h.digest != digest {
		return h.at.rev(), false, nil
	}
	if h.digest != "" && trust {
		return h.at.rev(), true, nil
	}
	// Without a digest a patch came after the last full change.
	snap, _, _, err := s.loadAll(ctx)
	if err != nil {
		return "", false, err
	}
	return snap.Rev, snap.Rev != "" && digestOf(dedupe(snap.Items)) == digest, nil
}

// upload stages items. While the server takes one chunk, the next one is made.
func (s *Store) upload(ctx context.Context, stage string, items []store.Item) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chunks := make(chan []store.Item)
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			var buf []byte
			for chunk := range chunks {
				var err error
				if buf, err = s.uploadChunk(ctx, stage, chunk, buf); err != nil {
					cancel(err)
					buf = nil // the client may still be reading it
				}
			}
		})
	}
	for len(items) > 0 && ctx.Err() == nil {
		n, size := 0, 0
		for n < len(items) && (n == 0 || size+len(items[n].Data) <= chunkSize) {
			size += len(items[n].Key) + len(items[n].Data)
			n++
		}
		select {
		case chunks <- items[:n]:
		case <-ctx.Done():
		}
		items = items[n:]
	}
	close(chunks)
	workers.Wait()
	return context.Cause(ctx)
}

// uploadChunk sends one chunk, put together in buf, which it returns.
func (s *Store) uploadChunk(ctx context.Context, stage string, items []store.Item, buf []byte) ([]byte, error) {
	size := 0
	for _, it := range items {
		size += 2*maxPrefix + len(it.Key) + len(it.Data)
	}
	buf = slices.Grow(buf[:0], size) // must not move from here on
	pairs := make([]any, 0, 2*len(items))
	for _, it := range items {
		from := len(buf)
		buf = appendField(buf, it)
		field := buf[from:]
		buf = appendValue(buf, it)
		pairs = append(pairs, field, buf[from+len(field):])
	}
	_, err := do(ctx, s, s.opts.Timeout, func(ctx context.Context) ([]goredis.Cmder, error) {
		return s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
			p.HSet(ctx, stage, pairs...)
			p.Expire(ctx, stage, stageLife)
			return nil
		})
	})
	return buf, err
}

// discard removes what was staged for nothing, which matters to a server that is
// out of memory. If that fails, it expires.
func (s *Store) discard(ctx context.Context, stage string) {
	_, _ = do(context.WithoutCancel(ctx), s, s.opts.Timeout, func(ctx context.Context) (int64, error) {
		return s.client.Unlink(ctx, stage).Result()
	})
}

// dedupe returns the items of a full change, sorted: of each key the one with
// the largest version, of equal versions the last.
func dedupe(items []store.Item) []store.Item {
	order := make([]int32, len(items)) // cheaper to move than items
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(i, j int32) int {
		a, b := &items[i], &items[j]
		if a.Kind != b.Kind {
			return cmp.Compare(a.Kind, b.Kind)
		}
		return cmp.Or(strings.Compare(a.Key, b.Key), cmp.Compare(a.Version, b.Version), cmp.Compare(i, j))
	})
	out := make([]store.Item, 0, len(items))
	for _, i := range order {
		if n := len(out); n > 0 && out[n-1].ID() == items[i].ID() {
			out[n-1] = items[i]
			continue
		}
		out = append(out, items[i])
	}
	return out
}

// digestPart is how many items go into one part of a digest. It is part of what a
// digest is: another number makes other digests of the same content.
const digestPart = 1000

// digestOf names a content: it is the hash of the hashes of its parts, which can
// be worked out side by side.
func digestOf(sorted []store.Item) string {
	parts := slices.Collect(slices.Chunk(sorted, digestPart))
	sums := make([][sha256.Size]byte, len(parts))
	next := atomic.Int32{}
	var workers sync.WaitGroup
	for range min(len(parts), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(parts); i = next.Add(1) - 1 {
				sums[i] = partDigest(parts[i])
			}
		})
	}
	workers.Wait()
	h := sha256.New()
	for i := range sums {
		h.Write(sums[i][:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// partDigest hashes items. Lengths go first, so that no two contents run together
// into the same bytes.
func partDigest(items []store.Item) (sum [sha256.Size]byte) {
	h := sha256.New()
	var b []byte
	for _, it := range items {
		archived := byte(0)
		if it.Archived {
			archived = 1
		}
		b = append(b[:0], byte(it.Kind), archived)
		b = binary.BigEndian.AppendUint64(b, uint64(it.Version))
		b = binary.BigEndian.AppendUint64(b, uint64(len(it.Key)))
		b = binary.BigEndian.AppendUint64(b, uint64(len(it.Data)))
		b = append(b, it.Key...)
		h.Write(b)
		h.Write(it.Data)
	}
	h.Sum(sum[:0])
	return sum
}

// randomHex returns 64 random bits: the nonce of a commit, or a name that nobody
// else uses.
func randomHex() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
