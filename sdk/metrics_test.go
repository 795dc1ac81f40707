package sdk_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/sdk"
)

func measured(t *testing.T, all []sdk.Measurement) map[string]float64 {
	t.Helper()
	m := map[string]float64{}
	for _, one := range all {
		if _, twice := m[one.Name]; twice || one.Help == "" {
			t.Errorf("measurement %+v", one)
		}
		m[one.Name] = one.Value
	}
	return m
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, st := reading(t, sdk.Config{MaxAge: time.Minute})
		m := measured(t, c.Metrics())
		if _, known := m["flagstead_client_data_age_seconds"]; known || m["flagstead_client_ok"] != 1 || m["flagstead_client_source_state"] != 4 || m["flagstead_client_flags"] != 1 {
			t.Errorf("without a heartbeat: %v", m)
		}
		beat(t, st, "ok", 0)
		after(5 * time.Second)
		m = measured(t, c.Metrics())
		if age := m["flagstead_client_data_age_seconds"]; age < 5 || age > 6 || m["flagstead_client_source_state"] != 1 || m["flagstead_client_too_old"] != 0 {
			t.Errorf("with one: %v", m)
		}
		after(time.Minute)
		m = measured(t, c.Metrics())
		if m["flagstead_client_too_old"] != 1 || m["flagstead_client_ok"] != 0 || m["flagstead_client_data_age_seconds"] < 65 {
			t.Errorf("a minute later: %v", m)
		}
	})
}
