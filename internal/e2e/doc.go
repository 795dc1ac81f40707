// Package e2e checks the relay and the client against FeatBit's official Node
// server SDK, as a program of its own that knows nothing of this module.
//
// The test has the build tag e2e, because it needs more than Go:
//
//	go test -tags e2e ./internal/e2e
//
// It needs Node.js 18 or newer with npm. Its first run installs the SDK, in the
// version that node/package-lock.json pins, from the npm registry that npm is
// configured for; later runs need no network until the lock file changes.
// Without the tag the package has no tests.
package e2e
