package redis

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flagstead/flagstead/store"
)

const (
	// What the mailbox may hold at most.
	boxMessages = 256
	boxBytes    = 1 << 20

	// boxLife is how long a message answers a Load, and how long messages do so
	// without the server being asked.
	boxLife = time.Second

	// deafAfter is how long a commit that a Load found may go without a message.
	deafAfter = 2 * time.Second

	// fallenFor is how long a server that fell back is not followed. Whoever knows
	// better has mended it by then; if nobody does, what it has is the truth.
	fallenFor = time.Minute

	// historyLength is how many revisions a handle remembers at least: those that a
	// master which is being replaced may take until its clients have left it. They
	// are 64 KB.
	historyLength = 4096
)

// errFellBack is why a state is not shown.
var errFellBack = errors.New("server fell back to an earlier state")

// A history is what a handle knows of the revisions it shows: the newest one
// that it heard of and those that led there. It recognises a server that went
// back, and it holds the messages that the newest revisions came with, so that a
// Load can be answered from them.
type history struct {
	mu sync.Mutex

	line   int       // counts the histories, of which a server that is flushed begins another
	top    int64     // seq of the newest revision; zero if none is known
	nonces []byte    // of top, at the end, and of those before
	shown  int64     // seq of the newest one that a caller got
	fell   time.Time // since when the server is behind that; zero if it is not

	// anchored says that top is where the server stood, so that a message that
	// follows it is the next commit.
	anchored bool
	chain    []message // each based on the one before, the last one at top
	bytes    int       // in chain
	alone    time.Time // since when messages alone have answered, if they have

	// A commit that a Load found is owed a message, if the subscription is older.
	watchers int
	sub      int   // counts subscriptions
	baseSub  int   // the subscription when top was loaded
	heard    int64 // seq of the last message
	owed     int64
	owedAt   time.Time
	warned   bool // about a missing message, and none came since
}

// A mark is what was known when something was asked of the server.
type mark struct {
	line       int
	top, shown int64
	sub        int
}

func (h *history) mark() mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	return mark{h.line, h.top, h.shown, h.sub}
}

// contains reports whether p led to the newest revision or is it.
func (h *history) contains(p position) bool {
	from := len(h.nonces) - int(h.top-p.seq+1)*nonceSize
	return p.seq > 0 && p.seq <= h.top && from >= 0 &&
		string(h.nonces[from:from+nonceSize]) == p.nonce
}

// behind reports whether p precedes what a caller got.
func (h *history) behind(p position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return p.seq < h.shown && h.contains(p)
}

// refuse returns an error if p precedes what a caller had got at m. What calls got
// that ran at the same time says nothing about the server.
func (h *history) refuse(m mark, p position) error {
	if m.line != h.line || p.seq >= m.shown || !h.contains(p) {
		h.fell = time.Time{}
		return nil
	}
	if h.fell.IsZero() {
		h.fell = time.Now()
	}
	if time.Since(h.fell) >= fallenFor {
		return nil
	}
	return fmt.Errorf("%w: %w (%s after %s)", ErrDamaged, errFellBack, p.rev(), h.at(m.shown).rev())
}

// check is refuse for those who are about to load p.
func (h *history) check(m mark, p position) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.refuse(m, p)
	if err != nil {
		h.drop()
	}
	return err
}

// drop empties the mailbox. Nothing comes into it until a Load says where the
// server stands.
func (h *history) drop() {
	h.anchored = false
	h.empty()
}

func (h *history) empty() { h.chain, h.bytes = nil, 0 }

// restart begins another history, at p and the nonces before it.
func (h *history) restart(p position, before string) {
	h.line++
	h.fell = time.Time{}
	h.top, h.shown, h.nonces = p.seq, p.seq, []byte(before+p.nonce)
	h.trim()
	h.empty()
	h.anchored = true
}

func (h *history) trim() {
	if len(h.nonces) > 2*historyLength*nonceSize { // not by each commit
		h.nonces = append(h.nonces[:0], h.nonces[len(h.nonces)-historyLength*nonceSize:]...)
	}
}

// loaded takes what the server answered to a Load that began at m: that it stands
// at p, after the commits with the nonces before, the first of which follows since
// if joins. It returns an error if p must not be shown.
func (h *history) loaded(m mark, p position, before string, joins bool, since position) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alone = time.Time{}
	watched := h.watchers > 0 && m.sub == h.sub
	defer func() {
		if watched {
			h.baseSub = m.sub
		}
	}()
	switch {
	case p.seq == 0:
		h.line++
		h.top, h.shown, h.nonces = 0, 0, nil
		h.drop()
	case h.contains(p):
		if m.line == h.line && p.seq < m.top {
			h.drop() // messages before the Load told of more than the server has
		}
		if err := h.refuse(m, p); err != nil {
			return err
		}
		if !h.fell.IsZero() {
			h.restart(p, before)
			return nil
		}
		h.shown = max(h.shown, p.seq)
	case (m.line != h.line || m.top != h.top) && p.seq <= h.top:
		// Another call was faster and saw more, or something else.
		h.drop()
	default:
		if watched && h.baseSub == m.sub && m.top != 0 && h.owed == 0 && h.heard != p.seq {
			h.owed, h.owedAt = p.seq, time.Now()
		}
		h.grow(p, before, joins, since)
	}
	return nil
}

// grow makes p the newest revision.
func (h *history) grow(p position, before string, joins bool, since position) {
	if !joins {
		h.restart(p, before)
		return
	}
	if !h.contains(since) {
		h.restart(p, since.nonce+before)
		return
	}
	h.nonces = append(h.nonces[:len(h.nonces)-int(h.top-since.seq)*nonceSize], before+p.nonce...)
	h.top, h.shown = p.seq, p.seq
	h.trim()
	h.empty()
	h.anchored = true
}

// at returns the revision of a seq that h contains.
func (h *history) at(seq int64) position {
	from := len(h.nonces) - int(h.top-seq+1)*nonceSize
	if from < 0 || seq > h.top {
		return position{seq: seq}
	}
	return position{seq, string(h.nonces[from : from+nonceSize])}
}

// applied takes the outcome of a commit of this handle's: p, based on base.
func (h *history) applied(m mark, base, p position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.contains(p):
		h.shown = max(h.shown, p.seq)
	case p == base: // nothing was committed, by somebody who did not know p
		h.drop()
	case (m.line != h.line || m.top != h.top) && p.seq <= h.top:
		h.drop()
	default:
		h.grow(p, "", base.seq > 0, base)
	}
}

// message takes what came over the channel.
func (h *history) message(payload string) {
	msg, rev, ok := parseMessage(payload)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warned = false
	if !ok {
		h.drop()
		return
	}
	if h.heard = rev.seq; h.heard >= h.owed {
		h.owed = 0
	}
	switch {
	case h.contains(rev):
		// Late, or twice.
	case !h.anchored || len(msg.items) == 0 || msg.base != h.at(h.top):
		h.drop()
	default:
		h.nonces = append(h.nonces, rev.nonce...)
		h.top = rev.seq
		h.trim()
		h.chain, h.bytes = append(h.chain, msg), h.bytes+msg.size
		now := time.Now()
		h.chain[len(h.chain)-1].came = now
		old := 0
		for old < len(h.chain) && (len(h.chain)-old > boxMessages || h.bytes > boxBytes || now.Sub(h.chain[old].came) > boxLife) {
			h.bytes -= h.chain[old].size
			h.chain[old] = message{}
			old++
		}
		h.chain = h.chain[old:]
	}
}

// answer returns the state after since from messages alone, if they have it.
func (h *history) answer(since position) (store.Snapshot, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.chain)
	if !h.anchored || n == 0 || time.Since(h.chain[n-1].came) > boxLife {
		return store.Snapshot{}, false
	}
	if !h.alone.IsZero() && time.Since(h.alone) > boxLife {
		return store.Snapshot{}, false // no stream of messages keeps a reader from the truth
	}
	for i := range h.chain {
		if h.chain[i].base != since {
			continue
		}
		h.shown = h.top
		if h.alone.IsZero() {
			h.alone = time.Now()
		}
		return store.Snapshot{Rev: h.at(h.top).rev(), Delta: true, Items: merged(h.chain[i:])}, true
	}
	return store.Snapshot{}, false
}

// merged returns the items that several commits left, the last one of each.
func merged(chain []message) []store.Item {
	if len(chain) == 1 {
		return append([]store.Item(nil), chain[0].items...)
	}
	var items []store.Item
	at := map[store.ID]int{}
	for _, m := range chain {
		for _, it := range m.items {
			if i, ok := at[it.ID()]; ok {
				items[i] = it
				continue
			}
			at[it.ID()] = len(items)
			items = append(items, it)
		}
	}
	return items
}

// subscribed says that a Watch began, and the returned function that it ended.
func (h *history) subscribed() func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers++
	h.sub++
	h.owed, h.heard = 0, 0
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watchers--
	}
}

// deaf reports, once, that there are commits of which no message came, as after a
// failover that left the subscription with a server that nobody writes to.
func (h *history) deaf() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owed == 0 || h.warned || time.Since(h.owedAt) < deafAfter {
		return false
	}
	h.warned, h.owed = true, 0
	return true
}
