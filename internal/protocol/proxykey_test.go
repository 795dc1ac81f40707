package protocol

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestProxyKeyNeverPrints(t *testing.T) {
	const key ProxyKey = "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"
	b, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %s %q", key, key, key, key), string(b), key.LogValue().String()} {
		if strings.Contains(text, "MDcw") {
			t.Errorf("printed %s", text)
		}
	}
	if err := key.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []ProxyKey{"", "hunter2", "rp-hunter2\n", ProxyKey("rp-hunter2" + strings.Repeat("x", 300))} {
		if err := bad.Check(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Check = %v", err)
		}
	}
}

func TestCheckEnvID(t *testing.T) {
	const id = "0f8fad5b-d9cb-469f-a165-70867728950e"
	if got, err := CheckEnvID(strings.ToUpper(id)); err != nil || got != id {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "x", "../../etc/passwd", id + "0"} {
		if _, err := CheckEnvID(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
