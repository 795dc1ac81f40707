// Package flagstead is the root of a module that keeps FeatBit's feature flags
// in any store. It has no code of its own; begin with these packages:
//
//   - sdk: evaluate flags in a Go program
//   - syncer: keep a store equal to a FeatBit environment
//   - store, store/redis, store/bolt, store/file, store/memory: where flags live
//   - relay: serve FeatBit's protocol to SDKs of other languages
//   - cmd/flagstead: all of it from the shell
package flagstead
