// Package sdk evaluates FeatBit feature flags.
//
// A [Client] evaluates from an immutable snapshot in its own memory, so a call
// never waits for a network, a disk or a lock. Where the snapshot comes from is
// the one decision to make:
//
//   - Reader: Config.Store is a store that a syncer process fills (Redis, a
//     bolt file, a JSON file). The client needs no connection to FeatBit.
//   - Direct: Config.StreamingURL and Config.EnvSecret; the client connects to
//     FeatBit itself, as the official SDKs do.
//   - Offline: Config.Offline with a Bootstrap document; no network at all.
//
// In every mode:
//
//	client, err := sdk.New(cfg)
//	if err != nil {
//		return err // cfg is wrong; trouble with the network is never an error here
//	}
//	defer client.Close(ctx) // with a deadline, which bounds the delivery of events
//	client.WaitReady(ctx) // optional: until then, calls give their defaults
//
//	ann, err := sdk.NewUser("ann", sdk.String("plan", "pro"))
//	if client.Bool("new-checkout", ann, false) { … }
//
// Evaluations never fail and never panic: when a flag cannot be evaluated the
// caller's default is returned, and the Detail form of the call says why.
//
// A Client and everything it returns is safe for concurrent use. One client per
// environment and process is enough.
package sdk
