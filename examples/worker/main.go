// Command worker evaluates a flag once a second from a Redis store that a
// syncer fills. It has no connection to FeatBit.
//
//	REDIS_URL=redis://127.0.0.1:6379/0 go run ./examples/worker
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store/redis"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	st, err := redis.Open(os.Getenv("REDIS_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	client, err := sdk.New(sdk.Config{Store: st})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	ann, err := sdk.NewUser("ann", sdk.String("plan", "pro"))
	if err != nil {
		log.Fatal(err)
	}
	for tick := time.NewTicker(time.Second); ; {
		d := client.BoolDetail("new-checkout", ann, false)
		fmt.Println("new-checkout:", d.Value, "because:", d.Reason)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
