package syncer

import (
	"errors"
	"time"
)

// A Measurement is one number for whatever collects such. Names and units follow the
// conventions of Prometheus.
type Measurement struct {
	Name    string // as in "flagstead_syncer_connects_total"
	Help    string // a sentence on what Value counts or measures
	Counter bool   // Value only grows; else it is a gauge
	Value   float64
}

// Metrics returns what an operator watches of a syncer. A time that is not known
// yet has no measurement. It does not block.
func (s *Syncer) Metrics() []Measurement {
	st := s.Status()
	bit := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	m := []Measurement{
		{"flagstead_syncer_ok", "Whether the store is equal to FeatBit.", false, bit(st.State == OK)},
		{"flagstead_syncer_state", "0 initializing, 1 ok, 2 interrupted, 3 off.", false, float64(st.State)},
		{"flagstead_syncer_guard_refusing", "Whether the last full state was kept from the store.", false, bit(s.refusing())},
		{"flagstead_syncer_clock_skew_seconds", "FeatBit's clock minus this host's.", false, st.ClockSkew.Seconds()},
		{"flagstead_syncer_connects_total", "Connections opened to FeatBit.", true, float64(st.Connects)},
		{"flagstead_syncer_fulls_total", "Full states received.", true, float64(st.Fulls)},
		{"flagstead_syncer_patches_total", "Patches received that were not empty.", true, float64(st.Patches)},
		{"flagstead_syncer_ignored_total", "Messages and items that could not be used.", true, float64(st.Ignored)},
		{"flagstead_syncer_polling", "Whether FeatBit is polled, because streams do not get through or are not wanted.", false, bit(st.Transport == TransportPoll)},
		{"flagstead_syncer_standby", "Whether another syncer holds the store's lease.", false, bit(errors.Is(st.Err, ErrStandby))},
		{"flagstead_syncer_heals_total", "Times that the store had lost content.", true, float64(st.Heals)},
		{"flagstead_syncer_refused_total", "Full states that the guard kept from the store.", true, float64(st.Refused)},
	}
	if !st.Confirmed.IsZero() {
		m = append(m, Measurement{"flagstead_syncer_data_age_seconds", "Time since the store was last known to be equal to FeatBit.", false, time.Since(st.Confirmed).Seconds()})
	}
	return m
}

func (s *Syncer) refusing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health.guardErr != nil
}
