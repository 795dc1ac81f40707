package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/semaphore"
)

// An intake bounds what the bodies of insight requests take of memory together, a
// quarter for small ones and the rest for large ones. Small ones reserve as they
// arrive. A large one reserves all of itself at once, so that large ones do not wait for
// each other half read.
type intake struct {
	small, large *semaphore.Weighted
	patience     time.Duration // how long a request waits for room
}

const (
	defaultIntake = 64 << 20

	// intakePatience is short: an SDK waits for the answer, and has others to send.
	intakePatience = 2 * time.Second

	// smallBody is up to where a body counts as small. SDKs send 50 insights at a
	// time, which are some dozen KB.
	smallBody = 1 << 20

	firstRead = 4 << 10
)

func newIntake(size int64) *intake {
	return &intake{semaphore.NewWeighted(size / 4), semaphore.NewWeighted(size - size/4), intakePatience}
}

// A reservation is what one request holds of an intake.
type reservation struct {
	in           *intake
	small, large int64
}

// smallRoom reserves n bytes in place of what is held, or waits for them until ctx or
// the patience ends.
func (r *reservation) smallRoom(ctx context.Context, n int64) error {
	if err := r.wait(ctx, r.in.small, n); err != nil {
		return err
	}
	r.in.small.Release(r.small)
	r.small = n
	return nil
}

// largeRoom does so for a large body.
func (r *reservation) largeRoom(ctx context.Context, n int64) error {
	if err := r.wait(ctx, r.in.large, n); err != nil {
		return err
	}
	r.in.small.Release(r.small)
	r.small, r.large = 0, n
	return nil
}

func (r *reservation) wait(ctx context.Context, room *semaphore.Weighted, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.in.patience)
	defer cancel()
	if err := room.Acquire(ctx, n); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return nil
}

// release gives everything back.
func (r *reservation) release() {
	r.in.small.Release(r.small)
	r.in.large.Release(r.large)
	r.small, r.large = 0, 0
}

// read returns a body of at most limit bytes, of which length are announced, or -1 for
// unknown. The error wraps ErrBusy if there was no room, and is else that of body, which
// must not give more than limit.
func (r *reservation) read(ctx context.Context, body io.Reader, length, limit int64) ([]byte, error) {
	most := 1 + limit // one more, to see the end
	if length >= 0 {
		most = 1 + min(length, limit)
	}
	size := min(most, firstRead)
	if err := r.room(ctx, size, most, length > smallBody); err != nil {
		return nil, err
	}
	b := make([]byte, 0, size)
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		case len(b) < cap(b):
			continue
		case int64(len(b)) == most:
			return nil, fmt.Errorf("relay: a body of more than the %d bytes that were announced", length)
		}
		size = min(2*size, most)
		if err := r.room(ctx, size, most, size > smallBody); err != nil {
			return nil, err
		}
		b = append(make([]byte, 0, size), b...)
	}
}

// room sees to it that a body of size bytes, which may become most, has its room.
func (r *reservation) room(ctx context.Context, size, most int64, large bool) error {
	switch {
	case r.large > 0:
		return nil
	case large:
		return r.largeRoom(ctx, most)
	}
	return r.smallRoom(ctx, size)
}
