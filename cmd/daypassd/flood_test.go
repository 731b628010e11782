package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/api"
)

// fakeVerifier takes "good-N" and "stranger-N" for tokens: a hundred thousand
// real ones would take minutes to sign. What it says of strangers is what
// anybody on a public provider can have: a valid identity.
type fakeVerifier struct{}

func (fakeVerifier) Verify(_ context.Context, token broker.Secret) (broker.Identity, error) {
	kind, n, _ := strings.Cut(token.Reveal(), "-")
	id := broker.Identity{
		Issuer: "github", URL: "https://token.actions.githubusercontent.com", Subject: strings.Repeat("s", 8<<10) + n,
		Token: broker.NewTokenID("test", token.Reveal()), IssuedAt: time.Now(), Expires: time.Now().Add(5 * time.Minute), KeepUntil: time.Now().Add(6 * time.Minute),
		Claims: broker.Claims{"repository_owner_id": "9" + n, "repository_id": "9" + n, "ref": strings.Repeat("x", 200)},
		Listed: []string{"ref", "repository_id", "repository_owner_id"},
		Job: broker.Job{Repository: "somebody/" + strings.Repeat("r", 1<<10) + n, RepositoryID: "9" + n, OwnerID: "9" + n,
			Ref: strings.Repeat("f", 4<<10), RunURL: strings.Repeat("u", 4<<10), Environment: strings.Repeat("e", 1<<10)},
	}
	if kind == "good" {
		id.Claims = broker.Claims{"repository_owner_id": "1234", "repository_id": "5678", "ref": "refs/heads/main", "event_name": "push"}
		id.Subject = "repo:acme/shop:ref:refs/heads/main"
		id.Job = broker.Job{Repository: "acme/shop", RepositoryID: "5678", OwnerID: "1234"}
	}
	return id, nil
}

func TestAFloodOfStrangersAndReplaysLeavesRoomForIntents(t *testing.T) {
	const strangers, replays, each = 100_000, 20_000, 2_000
	e := newBench(t)
	d := e.d
	b, err := broker.New(broker.Config{
		Verifier: fakeVerifier{}, Policy: d.policy, Replay: d.state.replay, Journal: d.journal,
		Leases: d.state.leases, Book: d.state.book, Sessions: d.state.sessions, Alarms: d.state.alarms,
		Answers: d.state.answers, Encode: api.EncodeAnswer,
		Targets: d.targets, Meter: d.metrics, Log: d.log, Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token string) error {
		_, err := b.Exchange(t.Context(), broker.NewSecret(token), broker.Request{ID: "req_flood", Wants: benchWants})
		return err
	}
	if err := ask("good-used"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.config.DataDir, "journal")
	before := sizeOf(t, dir)

	began := time.Now()
	var slowest time.Duration
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := range strangers {
			if code := broker.CodeOf(ask(fmt.Sprintf("stranger-%d", i))); code != broker.Denied {
				t.Errorf("a stranger: %v", code)
				return
			}
		}
	})
	flood.Go(func() {
		for range replays {
			if code := broker.CodeOf(ask("good-used")); code != broker.TokenReused {
				t.Errorf("a replay: %v", code)
				return
			}
		}
	})
	good := 0
	for ; good < (strangers+replays)/each; good++ { // meanwhile
		started := time.Now()
		if err := ask(fmt.Sprintf("good-%d", good)); err != nil {
			t.Fatalf("a good exchange in the flood: %v", err)
		}
		slowest = max(slowest, time.Since(started))
	}
	flood.Wait()
	if err := d.journal.Close(context.Background()); err != nil { // which writes the notes
		t.Fatal(err)
	}
	grown := sizeOf(t, dir) - before
	t.Logf("%d strangers and %d replays in %.1f s: the journal grew by %d KiB, %d good exchanges took at most %v",
		strangers, replays, time.Since(began).Seconds(), grown>>10, good, slowest.Round(time.Millisecond))
	if grown > 1<<20 {
		t.Errorf("the journal grew by %d bytes, want at most 1 MiB", grown)
	}
}

func sizeOf(t *testing.T, dir string) int64 {
	t.Helper()
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}
