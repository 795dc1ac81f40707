package redis_test

import (
	"context"
	"log"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/redis"
)

func Example() {
	s, err := redis.Open("redis://localhost:6379/0", &redis.Options{Env: "prod"})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	store.Follow(context.Background(), s, store.FollowOptions{}, func(snap store.Snapshot, err error) {
		if err != nil {
			log.Print(err) // keep what is there; Follow goes on
			return
		}
		log.Printf("%d items at %s", len(snap.Items), snap.Rev)
	})
}
