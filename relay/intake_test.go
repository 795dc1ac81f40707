package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/relay"
)

// A slowSink keeps what is large until it is told to go on.
type slowSink struct {
	sync.Mutex
	inside, most int // bytes
	goOn         chan struct{}
}

func (s *slowSink) Accept(ctx context.Context, _ string, insights []json.RawMessage) error {
	size := len(insights[0])
	if size < 10_000 {
		return nil
	}
	s.count(size)
	defer s.count(-size)
	select {
	case <-s.goOn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowSink) count(n int) {
	s.Lock()
	defer s.Unlock()
	s.inside += n
	s.most = max(s.most, s.inside)
}

func insightOf(size int) string {
	return fmt.Sprintf(`[{"user":{"keyId":"u","name":%q}}]`, strings.Repeat("x", size))
}

// post delivers without a network; chunked hides the length.
func post(s *server, body io.Reader, chunked bool) (int, http.Header) {
	req := httptest.NewRequest("POST", track, body)
	req.Header.Set("Authorization", secret)
	if chunked {
		req.ContentLength = -1
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Code, w.Header()
}

// TestInsightBodiesTogether: the bodies of all requests have a bound, those beyond are
// asked to come again, and small ones pass beside large ones.
func TestInsightBodiesTogether(t *testing.T) {
	const most = 8 << 20
	for _, c := range []struct {
		size    int
		chunked bool
	}{{3_500_000, false}, {3_500_000, true}, {900_000, false}, {900_000, true}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			sink := &slowSink{goOn: make(chan struct{})}
			s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxBody: 4 << 20, MaxBodies: most, Insights: sink, KeepInsights: -1})
			s.SetPatience(20 * time.Millisecond)
			body := insightOf(c.size)
			codes := make(chan int, 100)
			send := func() {
				code, h := post(s, strings.NewReader(body), c.chunked)
				if code == 503 && h.Get("Retry-After") == "" {
					t.Error("a 503 without Retry-After")
				}
				codes <- code
			}
			// One after the other, until there is no room.
			var running sync.WaitGroup
			sent := 0
			for refused := false; !refused; sent++ {
				running.Go(send)
				eventually(t, "an answer or a place", func() bool {
					select {
					case code := <-codes:
						if refused = code == 503; !refused {
							t.Fatalf("%d before anything was delivered", code)
						}
						return true
					default:
					}
					sink.Lock()
					defer sink.Unlock()
					return sink.inside == (sent+1)*(len(body)-2)
				})
			}
			if sink.most > most || sink.most == 0 {
				t.Errorf("%d bytes at a time, want some and at most %d", sink.most, most)
			}
			if c.size > 1<<20 {
				if code, _ := post(s, strings.NewReader(insightOf(1000)), c.chunked); code != 200 {
					t.Errorf("a small one beside large ones: %d", code)
				}
			}
			close(sink.goOn)
			running.Wait()
			for range sent - 1 {
				if code := <-codes; code != 200 {
					t.Errorf("one that had its place: %d", code)
				}
			}
			for range 5 {
				if send(); <-codes != 200 {
					t.Fatal("the room was not given back")
				}
			}
			if n := s.Stats().RefusedInsights; n != 1 {
				t.Errorf("%d refused, want 1", n)
			}
		})
	}
}

// TestInsightBodyWaits: a request that finds no room is taken when there is some soon.
func TestInsightBodyWaits(t *testing.T) {
	sink := &slowSink{goOn: make(chan struct{})}
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxBody: 4 << 20, MaxBodies: 8 << 20, Insights: sink, KeepInsights: -1})
	s.SetPatience(patient)
	body := insightOf(3_500_000)
	var running sync.WaitGroup
	for range 5 {
		running.Go(func() {
			if code, _ := post(s, strings.NewReader(body), false); code != 200 {
				t.Errorf("status %d", code)
			}
		})
	}
	for range 5 {
		select {
		case sink.goOn <- struct{}{}:
		case <-time.After(patient):
			t.Error("nobody got in")
		}
	}
	running.Wait()
	if sink.most != len(body)-2 {
		t.Errorf("%d bytes at a time, want %d", sink.most, len(body)-2)
	}
}

// TestInsightBodyBreaksOff: what ends in the middle gives its room back.
func TestInsightBodyBreaksOff(t *testing.T) {
	s := ready(t, relay.Config{Store: newShelf(flag("a", 1, "a")), MaxBody: 4 << 20, MaxBodies: 8 << 20, KeepInsights: -1})
	s.SetPatience(20 * time.Millisecond)
	for size, times := range map[int]int{10: 600, 100_000: 30, 3_500_000: 5} {
		for range times {
			part := io.MultiReader(strings.NewReader(insightOf(size)[:size]), brokenReader{})
			if code, _ := post(s, part, true); code != 400 {
				t.Fatalf("half a body of %d = %d, want 400", size, code)
			}
		}
	}
	for _, size := range []int{0, 1, 2, 4094, 4095, 4096, 4097, 1<<20 - 100, 1 << 20, 4<<20 - 100} {
		for _, chunked := range []bool{false, true} {
			if code, _ := post(s, strings.NewReader(insightOf(size)), chunked); code != 200 {
				t.Errorf("a whole body of about %d = %d", size, code)
			}
		}
	}
	if code, _ := post(s, strings.NewReader(insightOf(4<<20)), true); code != 413 {
		t.Errorf("too much in chunks = %d, want 413", code)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }
