package redis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/flagstead/flagstead/store"
)

const (
	// chunkSize is how much of a full change goes up in one command. Others get
	// their turn between the chunks.
	chunkSize = 256 << 10

	// stageLife is how long a staged hash outlives its last chunk.
	stageLife = time.Minute

	// fullTries bounds how often a full change is compared with a content that
	// others keep changing.
	fullTries = 4
)

// Apply implements [store.Writer]. Redis decides how durable a commit is: with
// its usual settings the last second of commits may be lost with the server.
func (s *Store) Apply(ctx context.Context, c store.Change) (store.Rev, error) {
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
	args := append(make([]any, 0, 3+2*len(c.Items)), s.commitArgs(c.Base)...)
	for _, it := range c.Items {
		args = append(args, fieldOf(it), valueOf(it))
	}
	m := s.history.mark()
	return s.committed(m)(s.run(ctx, s.command(patchScript), []string{s.data, s.sorted}, args...))
}

// commitArgs are the first arguments of the scripts that commit.
func (s *Store) commitArgs(base store.Rev) []any {
	return []any{string(base), randomHex(), s.topic}
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
		reply, err := s.run(ctx, s.command(fullScript), []string{s.data, s.sorted, stage},
			append(s.commitArgs(c.Base), digest, len(items), differs)...)
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

func (s *Store) upload(ctx context.Context, stage string, items []store.Item) error {
	for len(items) > 0 {
		var pairs []any
		size := 0
		for len(items) > 0 && (size == 0 || size+len(items[0].Data) <= chunkSize) {
			it := items[0]
			pairs = append(pairs, fieldOf(it), valueOf(it))
			size += len(it.Key) + len(it.Data) + 1
			items = items[1:]
		}
		_, err := do(ctx, s, s.opts.Timeout, func(ctx context.Context) ([]goredis.Cmder, error) {
			return s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
				p.HSet(ctx, stage, pairs...)
				p.Expire(ctx, stage, stageLife)
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
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
	at := make(map[store.ID]int, len(items))
	out := make([]store.Item, 0, len(items))
	for _, it := range items {
		i, ok := at[it.ID()]
		switch {
		case !ok:
			at[it.ID()] = len(out)
			out = append(out, it)
		case it.Version >= out[i].Version:
			out[i] = it
		}
	}
	slices.SortFunc(out, func(a, b store.Item) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}

// digestOf names a content. Lengths go first, so that no two contents run
// together into the same bytes.
func digestOf(sorted []store.Item) string {
	h := sha256.New()
	var b []byte
	for _, it := range sorted {
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
	return hex.EncodeToString(h.Sum(nil))
}

// randomHex returns 64 random bits: the nonce of a commit, or a name that nobody
// else uses.
func randomHex() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
