package syncer

import "time"

// AnswerWithin shortens how long an answer of FeatBit's may take.
func AnswerWithin(cfg Config, d time.Duration) Config {
	cfg.answerTimeout = d
	return cfg
}

// HastyProxy shortens what a proxy waits for.
func HastyProxy(cfg ProxyConfig) ProxyConfig {
	cfg.roundEvery, cfg.statusEvery, cfg.registerPause = 10*time.Millisecond, 20*time.Millisecond, time.Millisecond
	return cfg
}
