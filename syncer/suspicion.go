package syncer

import "time"

// A suspicion says when to ask for everything because of messages that were lost: at
// once, or as soon as it is no more often than every so long. No lost message is
// forgotten, and a server that sends many is not asked as often.
type suspicion struct {
	every time.Duration
	last  time.Time   // when it was acted upon last
	timer *time.Timer // when to
}

func newSuspicion(every time.Duration) *suspicion {
	s := &suspicion{every: every, timer: time.NewTimer(time.Hour)}
	s.timer.Stop()
	return s
}

// arise notes that a message was lost.
func (s *suspicion) arise() { s.timer.Reset(max(0, s.every-time.Since(s.last))) }

// acted notes that everything is asked for, when the timer has said so.
func (s *suspicion) acted() { s.last = time.Now() }
