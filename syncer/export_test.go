package syncer

import "time"

// AnswerWithin shortens how long an answer of FeatBit's may take.
func AnswerWithin(cfg Config, d time.Duration) Config {
	cfg.answerTimeout = d
	return cfg
}
