package relay_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/flagstead/flagstead/relay"
)

// A relay in front of a store, asked as an SDK in polling mode would.
func Example() {
	st := newShelf(flag("greeting", 1735689600000, "Hello")) // any store.Reader
	r, err := relay.New(relay.Config{
		Store:   st,
		Secrets: []relay.Secret{"eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	web := httptest.NewServer(r) // http.ListenAndServe("localhost:5100", r)
	defer web.Close()

	req, err := http.NewRequest("GET", web.URL+"/api/public/sdk/server/latest-all", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	req.Header.Set("Authorization", "eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg")
	for { // 503 until the store was loaded
		resp, err := web.Client().Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			fmt.Println(err)
			return
		}
		if resp.StatusCode == http.StatusOK {
			fmt.Println(string(body))
			break
		}
	}
	cancel()
	fmt.Println(<-ended)
	// Output:
	// {"messageType":"data-sync","data":{"eventType":"full","featureFlags":[{"key":"greeting","description":"Hello","updatedAt":"2025-01-01T00:00:00.000Z","isArchived":false,"future":{"x":1}}],"segments":[]}}
	// <nil>
}
