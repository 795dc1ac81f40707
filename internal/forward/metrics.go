package forward

import "github.com/flagstead/flagstead/syncer"

// Metrics returns what an operator watches of a Forwarder. It does not block.
func (f *Forwarder) Metrics() []syncer.Measurement {
	st := f.Stats()
	sp := f.cfg.Spool.Stats()
	return []syncer.Measurement{
		{Name: "flagstead_events_recorded_total", Help: "Insights taken over from SDKs, and found at the start.", Counter: true, Value: float64(st.Recorded)},
		{Name: "flagstead_events_delivered_total", Help: "Insights acknowledged by FeatBit.", Counter: true, Value: float64(st.Delivered)},
		{Name: "flagstead_events_lost_refused_total", Help: "Insights lost because FeatBit took them for malformed or too large.", Counter: true, Value: float64(st.Lost.Refused)},
		{Name: "flagstead_events_lost_unknown_total", Help: "Insights lost because their environment has no secret.", Counter: true, Value: float64(st.Lost.Unknown)},
		{Name: "flagstead_events_lost_damaged_total", Help: "Insights lost to damage on the disk.", Counter: true, Value: float64(st.Lost.Damaged)},
		{Name: "flagstead_events_lost_closed_total", Help: "Insights lost with the memory that held them.", Counter: true, Value: float64(st.Lost.Closed)},
		{Name: "flagstead_events_refused_total", Help: "Insights that SDKs had to keep because there was no room.", Counter: true, Value: float64(st.Refused)},
		{Name: "flagstead_events_pending", Help: "Insights held.", Value: float64(st.Pending)},
		{Name: "flagstead_events_requests_total", Help: "Requests to FeatBit with insights.", Counter: true, Value: float64(st.Requests)},
		{Name: "flagstead_events_retries_total", Help: "Batches that had to be tried again.", Counter: true, Value: float64(st.Retries)},
		{Name: "flagstead_events_suspended_environments", Help: "Environments whose secret FeatBit refuses.", Value: float64(st.Suspended)},
		{Name: "flagstead_events_failing_environments", Help: "Environments that wait for FeatBit to answer again.", Value: float64(st.Failing)},
		{Name: "flagstead_events_spool_bytes", Help: "Size of the spool.", Value: float64(sp.Bytes)},
		{Name: "flagstead_events_spool_max_bytes", Help: "Bound on the size of the spool.", Value: float64(sp.MaxBytes)},
		{Name: "flagstead_events_disk_errors_total", Help: "Writes, syncs and removals of the spool that failed.", Counter: true, Value: float64(sp.DiskErrors)},
	}
}
