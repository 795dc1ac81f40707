// Package redis keeps flags in Redis or anything that speaks its protocol and
// runs its Lua scripts.
//
// One environment is one place. It has these keys, which share a hash tag so
// that they live on one node of a cluster:
//
//	{prefix:env}:d  hash: "f:<flag key>" and "s:<segment id>" hold
//	                "version|archived|data"; "$epoch", "$seq", "$full" (seq of the
//	                last full change), "$n" (number of items), "$z" (size of
//	                the sorted set) and, as long as no patch followed a full
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
// A revision is "epoch-seq". The epoch is random and made anew by the first
// commit to an empty place, so that a flushed or replaced server never arrives
// at an old revision.
package redis
