// Package redis keeps flags in Redis or anything that speaks its protocol and
// runs its Lua scripts.
//
// The server may stand alone, have replicas that Sentinels promote, or be a node of
// a cluster; see [Open]. All keys of one environment, which is one place, share a
// hash tag and with it a node:
//
//	{prefix:env}:d  hash: "f:<flag key>" and "s:<segment id>" hold
//	                "version|archived|data"; "$seq" (commits so far), "$nonce"
//	                (of the last one), "$log" (nonces of those before, as far
//	                back as anybody needs them; those before a "|" are from
//	                before the last full change, which deltas do not reach
//	                across), "$n" (number of items), "$z" (size of the sorted
//	                set) and, as long as no patch followed a full change,
//	                "$digest" of its items
//	{prefix:env}:z  sorted set: field → seq, for what patches wrote since the
//	                last full change
//	{prefix:env}:h  hash: the heartbeat, in milliseconds of the server's clock
//	{prefix:env}:f  hash: the control, if publication was ever frozen
//	{prefix:env}:v  hash: what the history has, if a syncer keeps one: number →
//	                JSON, and "$last"; {prefix:env}:b is a hash of the contents,
//	                compressed, which only rollbacks and the like read
//	{prefix:env}:r  hash: the reports of readers, which expires
//	{prefix:env}:l  hash: which syncer holds the lease; it expires
//	{prefix:env}:c  channel: every new revision, and with it the change itself
//	                if that is no more than 64 KB
//	{prefix:env}:e  stream: the outbox, events that wait for a syncer to deliver
//	                them; with {prefix:env}:e:n, a hash of counters, and
//	                {prefix:env}:e:i, a sorted set of the ids of the last events.
//	                Only if somebody uses it, and within [OutboxOptions]
//
// and, while a full change is on its way, a staging hash that expires.
//
// Everything is in one hash because one command then reads a consistent state,
// because a server that evicts takes all of it, which is noticed, and because
// RENAME replaces all of it at once. Redis must not evict these keys:
// maxmemory-policy should be noeviction or one of the volatile-* policies. More
// than a thousand items are written and loaded in parts, between which other
// clients have their turn: each part says which revision it is of, and only parts
// of one revision make a state.
//
// A revision is "seq-nonce", and every commit has a random nonce of its own. A
// server that was flushed, replaced or rolled back counts the same seqs again
// but never arrives at an old revision, and since it keeps the nonces of the
// last 128 commits it knows which revisions its content grew from: to a reader
// at any other one it gives everything.
//
// # Failovers
//
// Replication is asynchronous: the master that takes over may lack the last
// commits, even if they were acknowledged. A handle that has shown them, or made
// them, does not go back (see [Store.Load]): a reader keeps what it has, and a
// syncer writes the whole state again, which everybody follows. So does what a
// server was given on purpose, from a backup: readers that saw more follow after
// the next commit, or after a minute. With
// min-replicas-to-write Redis loses less. What Sentinel replaces on request
// (SENTINEL FAILOVER) goes on as a master for up to ten seconds; clients are told
// at once and leave it, but what it took meanwhile is lost.
//
// # Permissions
//
// Servers before Redis 6 have no users, and those before Redis 7 none who may only
// read: there the reader's rules need evalsha and eval instead of evalsha_ro and
// eval_ro, and ~ instead of %R~. A user who reads the environment "prod":
//
//	resetchannels &{flagstead:prod}:c %R~{flagstead:prod}:* -@all
//	+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping
//
// can load, watch and read heartbeats, and write nothing. A syncer's:
//
//	resetchannels &{flagstead:prod}:c ~{flagstead:prod}:* -@all
//	+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping
//	+evalsha +eval +hset +hdel +zadd +rename +unlink +expire +pexpire +persist +publish
//
// can do all that, and keep a history; it is an operator's, too, who freezes and
// rolls back. A reader that reports which state it works on writes one key:
//
//	resetchannels &{flagstead:prod}:c %R~{flagstead:prod}:* ~{flagstead:prod}:r -@all
//	+evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping
//	+evalsha +eval +hset +hdel +pexpire
//
// An outbox takes more. A reader that hands events over ([Store.AppendEvents], Redis
// 5), which lets it write to the outbox and nothing else:
//
//	~{flagstead:prod}:e* +evalsha +eval +xadd +xlen +xrange +xdel +xack
//	+hincrby +zscore +zadd +zcard +zremrangebyscore +zremrangebyrank
//
// and a syncer that delivers them ([Store.ReadEvents], Redis 6.2):
//
//	~{flagstead:prod}:e* +evalsha +eval +exists +xgroup|create +xpending +xclaim +xautoclaim +xreadgroup
//	+xrange +xlen +xack +xdel +hincrby +hmget
//
// All need +select for a database other than 0, +client|setname for client_name,
// +info for the warning of [Options], and on a cluster, on every node,
//
//	+cluster|slots
//
// and +asking while slots move. On the Sentinels themselves, if they ask for a
// login:
//
//	resetchannels &+switch-master &+replica-reconf-done resetkeys -@all
//	+sentinel|get-master-addr-by-name +sentinel|sentinels +subscribe +ping
//
// Give nobody but syncers the right to publish on the channel: who has it and can
// read the revision can show readers a change, until they ask the server, which
// they do once per interval. A prefix or env with *, ? or [ has to be escaped in
// patterns.
//
// go-redis prints attempts to connect that failed to standard error, by a logger
// that all of a process shares. A program that wants that elsewhere, or nowhere,
// calls go-redis's SetLogger; this package does not decide for it.
package redis
