package syncer

import (
	"errors"
	"time"

	"github.com/flagstead/flagstead/metrics"
)

// A Measurement is one number for whatever collects such.
type Measurement = metrics.Measurement

// Metrics returns what an operator watches of a syncer. A time that is not known
// yet has no measurement. It does not block.
func (s *Syncer) Metrics() []Measurement {
	st := s.Status()
	m := []Measurement{
		{Name: "flagstead_syncer_ok", Help: "Whether the store is equal to FeatBit.", Value: metrics.Bit(st.State == OK)},
		{Name: "flagstead_syncer_state", Help: "0 initializing, 1 ok, 2 interrupted, 3 off.", Value: float64(st.State)},
		{Name: "flagstead_syncer_guard_refusing", Help: "Whether the last full state was kept from the store.", Value: metrics.Bit(s.refusing())},
		{Name: "flagstead_syncer_frozen", Help: "Whether an operator has frozen the store.", Value: metrics.Bit(st.Frozen != nil)},
		{Name: "flagstead_syncer_clock_skew_seconds", Help: "FeatBit's clock minus this host's.", Value: st.ClockSkew.Seconds()},
		{Name: "flagstead_syncer_connects_total", Help: "Connections opened to FeatBit.", Counter: true, Value: float64(st.Connects)},
		{Name: "flagstead_syncer_fulls_total", Help: "Full states received.", Counter: true, Value: float64(st.Fulls)},
		{Name: "flagstead_syncer_patches_total", Help: "Patches received that were not empty.", Counter: true, Value: float64(st.Patches)},
		{Name: "flagstead_syncer_ignored_total", Help: "Messages and items that could not be used.", Counter: true, Value: float64(st.Ignored)},
		{Name: "flagstead_syncer_polling", Help: "Whether FeatBit is polled, because streams do not get through or are not wanted.", Value: metrics.Bit(st.Transport == TransportPoll)},
		{Name: "flagstead_syncer_standby", Help: "Whether another syncer holds the store's lease.", Value: metrics.Bit(errors.Is(st.Err, ErrStandby))},
		{Name: "flagstead_syncer_heals_total", Help: "Times that the store had lost content.", Counter: true, Value: float64(st.Heals)},
		{Name: "flagstead_syncer_refused_total", Help: "Full states that the guard kept from the store.", Counter: true, Value: float64(st.Refused)},
	}
	if !st.Confirmed.IsZero() {
		m = append(m, Measurement{Name: "flagstead_syncer_data_age_seconds", Help: "Time since the store was last known to be equal to FeatBit.", Value: time.Since(st.Confirmed).Seconds()})
	}
	if kept := s.retained.Load(); kept != nil {
		m = append(m,
			Measurement{Name: "flagstead_syncer_revision", Help: "Number of the last revision in the store's history.", Value: float64(kept.last)},
			Measurement{Name: "flagstead_syncer_revisions", Help: "Revisions that the store's history keeps.", Value: float64(kept.count)},
			Measurement{Name: "flagstead_syncer_revisions_bytes", Help: "What they take in the store, compressed.", Value: float64(kept.bytes)},
		)
	}
	return m
}

func (s *Syncer) refusing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health.guardErr != nil
}
