// Package sample holds a FeatBit environment to try things with: fifteen flags
// of all types with targets, rules, rollouts and an experiment, and three
// segments. The document has the form that FeatBit's evaluation server returns
// from GET /api/public/sdk/server/latest-all.
package sample

import _ "embed"

// Flags is the document. Do not modify it.
//
//go:embed flags.json
var Flags []byte
