package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout = time.Second

	// reloadInterval is how long a client of a cluster believes what it knows of
	// the cluster without a sign that it is wrong.
	reloadInterval = 5 * time.Second

	// maxRedirects is how often a cluster may send a command on. Two covers a slot
	// that moves while the client's knowledge is old.
	maxRedirects = 2
)

// newClient returns a client of the servers at t whose connections end with
// closed.
func newClient(closed context.Context, t target, config *tls.Config, opts Options) goredis.UniversalClient {
	o := &goredis.UniversalOptions{
		Addrs:            t.addrs,
		MasterName:       t.master,
		DB:               t.db,
		Username:         t.username,
		Password:         t.password,
		SentinelUsername: t.sentinelUsername,
		SentinelPassword: t.sentinelPassword,
		ClientName:       t.clientName,
		Protocol:         t.protocol,
		PoolSize:         t.poolSize,
		Dialer:           newDialer(closed, config),
		TLSConfig:        config,

		// Whoever calls decides about trying again. A retry down here would only
		// hide for how long the server is gone.
		MaxRetries:    -1,
		DialerRetries: 1,
		DialTimeout:   dialTimeout,
		MaxRedirects:  maxRedirects,

		// The context of every command has the deadline.
		ContextTimeoutEnabled: true,
		ReadTimeout:           5 * opts.Timeout,
		WriteTimeout:          5 * opts.Timeout,

		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch t.topology {
	case sentinel:
		return goredis.NewFailoverClient(o.Failover())
	case cluster:
		co := o.Cluster()
		co.ClusterStateReloadInterval = reloadInterval
		// All our commands have keys of one slot. With policies the client would
		// ask for the list of all commands first.
		co.DisableRoutingPolicies = true
		client := goredis.NewClusterClient(co)
		client.OnNewNode(func(node *goredis.Client) { node.AddHook(nodeHook{opts.Timeout}) })
		return client
	}
	return goredis.NewClient(o.Simple())
}

// A nodeHook keeps a client of a cluster from waiting and retrying by itself.
type nodeHook struct {
	timeout time.Duration
}

func (nodeHook) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (nodeHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (h nodeHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if _, ok := ctx.Deadline(); !ok { // the client asks for the cluster's state without one
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, h.timeout)
			defer cancel()
		}
		err := next(ctx, cmd)
		var reply goredis.Error
		if err != nil && !errors.As(err, &reply) {
			return &final{err}
		}
		return err
	}
}

// final hides an error from the client, which would try again, even if the
// command was carried out and only its answer lost.
type final struct{ err error }

func (f *final) Error() string { return f.err.Error() }

// revealed returns what err hides.
func revealed(err error) error {
	var f *final
	if errors.As(err, &f) {
		return f.err
	}
	return err
}
