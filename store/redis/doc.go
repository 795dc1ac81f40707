// Package redis keeps flags in Redis or anything that speaks its protocol and
// runs its Lua scripts.
//
// One environment is one place. It has these keys, which share a hash tag, for
// the day when clusters are supported (see [New]):
//
//	{prefix:env}:d  hash: "f:<flag key>" and "s:<segment id>" hold
//	                "version|archived|data"; "$seq" (commits so far), "$nonce"
//	                (of the last one), "$log" (nonces of those before, as far
//	                back as deltas reach), "$n" (number of items), "$z" (size
//	                of the sorted set) and, as long as no patch followed a full
//	                change, "$digest" of its items
//	{prefix:env}:z  sorted set: field → seq, for what patches wrote since the
//	                last full change
//	{prefix:env}:c  channel: every new revision
//
// and, while a full change is on its way, a staging hash that expires.
//
// Everything is in one hash because one command then reads a consistent state,
// because a server that evicts takes all of it, which is noticed, and because
// RENAME replaces all of it at once. Redis must not evict these keys:
// maxmemory-policy should be noeviction or one of the volatile-* policies.
//
// A revision is "seq-nonce", and every commit has a random nonce of its own. A
// server that was flushed, replaced or rolled back counts the same seqs again
// but never arrives at an old revision, and since it keeps the nonces of the
// last 128 commits it knows which revisions its content grew from: to a reader
// at any other one it gives everything.
//
// go-redis prints attempts to connect that failed to standard error, by a logger
// that all of a process shares. A program that wants that elsewhere, or nowhere,
// calls go-redis's SetLogger; this package does not decide for it.
package redis
