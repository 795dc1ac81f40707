package relay

import "time"

// SetIdle changes how long connections may be silent and how often they are
// pinged.
func (r *Relay) SetIdle(silence, ping time.Duration) { r.silence, r.pingInterval = silence, ping }

// SetPatience changes how long insight requests wait for room.
func (r *Relay) SetPatience(d time.Duration) { r.intake.patience = d }
