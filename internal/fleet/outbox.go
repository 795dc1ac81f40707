package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/forward"
	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/store"
)

// outboxes deliver what readers left in the stores.
type outboxes struct {
	fleet    *Fleet
	url      string
	client   *http.Client
	consumer string
}

// newOutboxes returns nil if outboxes are not to be emptied.
func newOutboxes(f *Fleet, cfg *Config) (*outboxes, error) {
	url, err := cfg.eventsURL()
	switch wanted := cfg.Events.Outbox; {
	case err != nil:
		return nil, err
	case wanted != nil && !*wanted, wanted == nil && url == "":
		return nil, nil
	case url == "":
		return nil, errors.New("events.outbox: there is neither featbit.events nor featbit.url to deliver to")
	}
	tls, err := cfg.FeatBit.TLS.config()
	if err != nil {
		return nil, fmt.Errorf("featbit.tls: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tls
	return &outboxes{
		fleet: f, url: url, consumer: fmt.Sprintf("%s-%d", host, os.Getpid()),
		client: &http.Client{Transport: transport, Timeout: 10 * time.Second},
	}, nil
}

// A pump empties one outbox while it runs.
type pump struct {
	*forward.Pump
	stop func() // returns when it does not use the store any more
}

// start begins to empty the outbox of an environment's store. It returns nil if the
// store has none, or nobody knows whose events they would be.
func (o *outboxes) start(st store.DataStore, id, name string) *pump {
	outbox, ok := st.(store.OutboxReader)
	if o == nil || !ok || id == "" {
		return nil
	}
	log := o.fleet.log.With("name", name)
	// A store may have the methods and no outbox: FeatBit's layout.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	_, err := outbox.OutboxStats(ctx)
	cancel()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	p, err := forward.NewPump(forward.PumpConfig{
		Outbox: outbox, Env: id, URL: o.url, Secret: o.fleet.secretOf, Client: o.client, Logger: log, Consumer: o.consumer,
	})
	if err != nil {
		log.Error("the outbox is not emptied", "error", err)
		return nil
	}
	ctx, cancel = context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	return &pump{p, sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})}
}

// end stops the pump, if there is one.
func (p *pump) end() {
	if p != nil {
		p.stop()
	}
}

func (p *pump) group(name string) []metrics.Group {
	if p == nil {
		return nil
	}
	return []metrics.Group{{Labels: metrics.Labels{"env": cmp.Or(name, "unknown")}, Measurements: p.Metrics()}}
}

// close lets go of connections.
func (o *outboxes) close() {
	if o != nil {
		o.client.CloseIdleConnections()
	}
}
