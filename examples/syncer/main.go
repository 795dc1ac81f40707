// Command syncer keeps a Redis store equal to a FeatBit environment.
//
//	REDIS_URL=redis://127.0.0.1:6379/0 FLAGSTEAD_URL=wss://featbit.example \
//	FLAGSTEAD_SECRET=… go run ./examples/syncer
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/flagstead/flagstead/store/redis"
	"github.com/flagstead/flagstead/syncer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	st, err := redis.Open(os.Getenv("REDIS_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer st.Close()
	s, err := syncer.New(syncer.Config{
		URL:    os.Getenv("FLAGSTEAD_URL"),
		Secret: syncer.Secret(os.Getenv("FLAGSTEAD_SECRET")),
		Store:  st,
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}
