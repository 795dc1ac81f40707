package syncer

import (
	"context"
	"errors"
	"time"

	"github.com/flagstead/flagstead/store"
)

// pulse tells the store's readers how current it is, until ctx ends. It has a
// goroutine of its own, since what it has to say is most wanted when the others
// hang.
func (s *Syncer) pulse(ctx context.Context) {
	w, ok := s.cfg.Store.(store.HeartbeatWriter)
	if !ok {
		return
	}
	tick := time.NewTicker(store.HeartbeatLife / 2)
	defer tick.Stop()
	said := ""
	for {
		err := s.beat(ctx, w)
		switch why := text(err); {
		case ctx.Err() != nil || errors.Is(err, store.ErrClosed):
			return
		case why != "" && said == "" && s.Status().State == OK: // else the store is down, which says itself
			s.cfg.Logger.Warn("readers cannot be told how current the flags are", "env", s.env, "error", err)
			said = why
		case why == "":
			said = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.beats:
		}
	}
}

func (s *Syncer) beat(ctx context.Context, w store.HeartbeatWriter) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	st := s.Status()
	source := st.State.String()
	if st.Frozen != nil && st.State != Off {
		source = store.SourceFrozen
	}
	return w.WriteHeartbeat(ctx, store.Heartbeat{Confirmed: st.Confirmed, Source: source, Writer: s.cfg.Name})
}

// lastBeat says that this syncer stops. It must not hold up who waits for that.
func (s *Syncer) lastBeat() {
	w, ok := s.cfg.Store.(store.HeartbeatWriter)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(time.Second, s.cfg.StoreTimeout))
	defer cancel()
	if err := s.beat(ctx, w); err != nil {
		s.cfg.Logger.Info("readers cannot be told that the syncer stops", "env", s.env, "error", err)
	}
}
