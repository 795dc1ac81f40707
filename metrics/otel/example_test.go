package otel_test

import (
	"context"
	"fmt"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/flagstead/flagstead/metrics"
	"github.com/flagstead/flagstead/metrics/otel"
	"github.com/flagstead/flagstead/sdk"
)

func Example() {
	ctx := context.Background()
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: []byte(`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":[]}}`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)

	reader := sdkmetric.NewManualReader() // in a service: a periodic reader with an OTLP exporter
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer provider.Shutdown(ctx)
	exporter := otel.New(provider.Meter("github.com/flagstead/flagstead"))
	defer exporter.Close()
	if _, err := exporter.Add(client, metrics.Labels{"env": "prod"}); err != nil {
		fmt.Println(err)
		return
	}

	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		if gauge, ok := m.Data.(metricdata.Gauge[float64]); ok && m.Name == "flagstead.client.ready" {
			env, _ := gauge.DataPoints[0].Attributes.Value("env")
			fmt.Println(m.Name, env.AsString(), gauge.DataPoints[0].Value)
		}
	}
	// Output: flagstead.client.ready prod 1
}
