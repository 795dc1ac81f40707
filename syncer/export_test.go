package syncer

import "time"

// AnswerWithin shortens how long an answer of FeatBit's may take.
func AnswerWithin(cfg Config, d time.Duration) Config {
	cfg.answerTimeout = d
	return cfg
}

// SuspectEvery shortens the time between two requests for everything because of
// messages that could not be read.
func SuspectEvery(cfg Config, d time.Duration) Config {
	cfg.suspectEvery = d
	return cfg
}

// HastyProxy shortens what a proxy waits for.
func HastyProxy(cfg ProxyConfig) ProxyConfig {
	cfg.roundEvery, cfg.statusEvery, cfg.registerPause = 10*time.Millisecond, 20*time.Millisecond, time.Millisecond
	return cfg
}
