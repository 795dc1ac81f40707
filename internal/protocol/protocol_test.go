package protocol

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testSecret = "eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg"
	testEnv    = "0f8fad5b-d9cb-469f-a165-70867728950e"
)

func TestSecretEnvID(t *testing.T) {
	for secret, want := range map[string]string{
		testSecret: testEnv,
		"E0ZC__zC8EeQoxEDF-iR9g-JtrIvNK-k-bARYicOTNQA": "226b9bf8-4af3-4ffa-9b01-162270e4cd40",
	} {
		if got, err := Secret(secret).EnvID(); err != nil || got != want {
			t.Errorf("EnvID() = %q, %v, want %q", got, err, want)
		}
	}
	for _, bad := range []string{"", "short", testSecret + "x", strings.Repeat("=", 44), testSecret[:22] + strings.Repeat("A", 22), "!" + testSecret[1:]} {
		_, err := Secret(bad).EnvID()
		if err == nil || (bad != "" && strings.Contains(err.Error(), bad)) {
			t.Errorf("EnvID() of a bad secret = %v", err)
		}
	}
}

func TestNewSecretRoundTrip(t *testing.T) {
	for range 100 {
		env := NewEnvID()
		s, err := NewSecret(env)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.EnvID(); err != nil || got != env {
			t.Fatalf("EnvID() = %q, %v, want %q", got, err, env)
		}
	}
	if _, err := NewSecret("no guid"); err == nil {
		t.Error("NewSecret accepts a text that is no GUID")
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := Secret(testSecret)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "in", struct{ S Secret }{s})
	text, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %s %q %+v %#v %v", s, s, s, struct{ S Secret }{s}, struct{ S Secret }{s}, &s) + log.String() + string(text)
	if strings.Contains(all, testSecret[:10]) {
		t.Errorf("the secret got out: %s", all)
	}
}

// The tokens are worked examples of FeatBit's construction for 2025-01-01.
func TestToken(t *testing.T) {
	at := time.UnixMilli(1735689600000)
	for start, want := range map[int]string{
		2:  "QQWBSeWBXSHDZUDQQQQQaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg",
		17: "QBXBSeWaefCV03kCUS-B_wBXSHDZUDQQQQQfkK5wW62PD8vZn0ahZXCGdyiVDg",
		43: "QPSBSeWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDBXSHDZUDQQQQQg",
	} {
		if got := token(testSecret, at, start); got != want {
			t.Errorf("token at %d = %s, want %s", start, got, want)
		}
	}
}

func TestParseToken(t *testing.T) {
	for _, tc := range []struct {
		token, secret string
		millis        int64
	}{
		{"QPSBSeWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDBXSHDZUDQQQQQg", testSecret, 1735689600000},
		{"QQUBHeWaefCV03QQBXSHDZUDQQQQQkCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg", testSecret, 1735689600000},
		{"QWSBHgpnOV3wI3kKAO9q9viC0wQWQQBDDDQBZWPXDQSdKZrVAf2U6gAnxl4lSH3w", "gpnOV3wI3kKAO9q9viC0wQWdKZrVAf2U6gAnxl4lSH3w", 1666018247603},
	} {
		s, at, err := ParseToken(tc.token)
		if err != nil || string(s) != tc.secret || at.UnixMilli() != tc.millis {
			t.Errorf("ParseToken(%s) = %s, %v, %v", tc.token, string(s), at.UnixMilli(), err)
		}
	}
	for range 200 {
		now := time.Now()
		s, at, err := ParseToken(Token(testSecret, now))
		if err != nil || string(s) != testSecret || at.UnixMilli() != now.UnixMilli() {
			t.Fatalf("round trip = %s, %v, %v", string(s), at, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("QQWBSeWBXSHDZUDQQQQQaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg")
	f.Add("QQQQQ")
	f.Add("UUUUU")
	f.Fuzz(func(t *testing.T, text string) {
		if s, _, err := ParseToken(text); err == nil && len(s) != secretLen {
			t.Errorf("ParseToken(%q) gives a secret of %d characters", text, len(s))
		}
	})
}

func TestBaseURL(t *testing.T) {
	for _, tc := range []struct{ text, kind, want string }{
		{"http://h:1/", "ws", "ws://h:1"},
		{"wss://h/a/b/", "http", "https://h/a/b"},
		{" ws://h ", "http", "http://h"},
	} {
		if got, err := BaseURL(tc.text, tc.kind); err != nil || got.String() != tc.want {
			t.Errorf("BaseURL(%q) = %v, %v, want %s", tc.text, got, err, tc.want)
		}
	}
	for _, bad := range []string{"", "h:1", "ftp://h", "http://", "redis://u:hunter2@h", "http://u:hunter2@h:x"} {
		if _, err := BaseURL(bad, "ws"); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("BaseURL(%q) = %v", bad, err)
		}
	}
}
