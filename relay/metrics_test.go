package relay

import (
	"reflect"
	"testing"
)

// Every number of Stats is measured, each under a name of its own.
func TestMetricsCoverStats(t *testing.T) {
	var s Stats
	v := reflect.ValueOf(&s).Elem()
	want := map[float64]string{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i); f.Kind() {
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(100 + i))
			want[float64(100+i)] = name
		}
	}
	names := map[string]bool{}
	for _, m := range measure(s) {
		if names[m.Name] || m.Help == "" {
			t.Errorf("measurement %+v", m)
		}
		names[m.Name] = true
		delete(want, m.Value)
	}
	if len(want) > 0 {
		t.Errorf("not measured: %v", want)
	}
	ready := measure(Stats{Ready: true, StoreFailing: true})
	if ready[0].Value != 1 || ready[1].Value != 1 || measure(Stats{})[0].Value != 0 {
		t.Errorf("%v", ready[:2])
	}
}
