package broker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// Whoever takes, gives back or goes away, in whatever order: no more turns are
// had than there are, no place and nothing that failed before has the last one,
// none is lost, and none is free that somebody might have.
func TestTurnsAreSharedWhateverComesAndGoes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(r, "most")
		turns := newTurns(most)
		var waiting, had []*turn
		settle := func() {
			still := waiting[:0]
			for _, w := range waiting {
				select {
				case <-w.mine:
					had = append(had, w)
				default:
					still = append(still, w)
				}
			}
			waiting = still
		}
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			turns.mu.Lock()
			switch what := rapid.SampledFrom([]string{"come", "come", "give back", "go away"}).Draw(r, "step"); {
			case what == "come":
				w := &turn{place: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "place"), again: rapid.Bool().Draw(r, "again"), mine: make(chan struct{})}
				waiting = append(waiting, w)
				turns.line(w).add(w)
				turns.hand()
				turns.mu.Unlock()
			case what == "give back" && len(had) > 0:
				i := rapid.IntRange(0, len(had)-1).Draw(r, "which")
				w := had[i]
				had = append(had[:i], had[i+1:]...)
				turns.mu.Unlock()
				turns.giveBack(w)
			case what == "go away" && len(waiting) > 0:
				i := rapid.IntRange(0, len(waiting)-1).Draw(r, "which")
				if !turns.line(waiting[i]).remove(waiting[i]) {
					r.Error("who waits is not in line")
				}
				waiting = append(waiting[:i], waiting[i+1:]...)
				turns.mu.Unlock()
			default:
				turns.mu.Unlock()
			}
			settle()
			sharedRightly(r, most, waiting, had)
		}
		for len(had) > 0 {
			w := had[0]
			had = had[1:]
			turns.giveBack(w)
			settle()
		}
		if len(waiting) > 0 || turns.all != 0 || turns.again != 0 || len(turns.held) != 0 || len(turns.first.places)+len(turns.second.places) != 0 {
			r.Errorf("when all have had their turn, %d wait and there is %+v", len(waiting), turns)
		}
	})
}

func sharedRightly(r *rapid.T, most int, waiting, had []*turn) {
	butOne := max(1, most-1)
	places, again := make(map[string]int), 0
	for _, h := range had {
		places[h.place]++
		if h.again {
			again++
		}
	}
	if len(had) > most || again > butOne {
		r.Fatalf("%d turns of %d are had, %d of them by what failed before", len(had), most, again)
	}
	for place, n := range places {
		if n > butOne {
			r.Fatalf("%s has %d turns of %d", place, n, most)
		}
	}
	for _, w := range waiting {
		if len(had) < most && places[w.place] < butOne && (!w.again || again < butOne) {
			r.Fatalf("%+v waits, and a turn is free", w)
		}
	}
}

// What a place asks for is not served before what another asked for later, if it
// has been served since.
func TestPlacesAreServedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		first, err := turns.take(t.Context(), Lease{Place: "z"})
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 16)
		for _, place := range []string{"a", "a", "a", "a", "b", "c", "b"} {
			go func() {
				giveBack, err := turns.take(context.Background(), Lease{Place: place})
				if err != nil {
					t.Error(err)
					return
				}
				order <- place
				giveBack()
			}()
			synctest.Wait()
		}
		first()
		synctest.Wait()
		close(order)
		var got string
		for place := range order {
			got += place
		}
		if got != "abcabaa" {
			t.Errorf("served in the order %s", got)
		}
	})
}

// Who goes away while waiting leaves no gap, nor takes a turn along that came in
// the same moment.
func TestWhoDoesNotWaitForHisTurnLeavesItToOthers(t *testing.T) {
	for range 200 {
		turns := newTurns(1)
		giveBack, err := turns.take(t.Context(), Lease{Place: "a"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, goAway := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			giveBack, err := turns.take(ctx, Lease{Place: "b"})
			if err == nil {
				giveBack()
			}
			gone <- err
		}()
		go goAway()
		giveBack()
		if err := <-gone; err != nil && (!errors.Is(err, errBusy) || !errors.Is(err, context.Canceled)) {
			t.Fatal(err)
		}
		giveBack, err = turns.take(t.Context(), Lease{Place: "c"})
		if err != nil {
			t.Fatal(err)
		}
		giveBack()
	}
}
