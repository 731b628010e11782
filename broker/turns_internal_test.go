package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Whoever takes, gives back or goes away, in whatever order: no more turns are
// had than there are, no place and nothing that failed before has the last one,
// none is lost, and none is free that somebody might have.
func TestTurnsAreSharedWhateverComesAndGoes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(r, "most")
		turns := newTurns(most, time.Now)
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
				w := &turn{place: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "place"), again: rapid.Bool().Draw(r, "again"),
					due: time.Unix(rapid.Int64Range(0, 9).Draw(r, "due"), 0), mine: make(chan struct{})}
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
		if len(waiting) > 0 || turns.all != (share{}) || len(turns.held) != 0 || len(turns.first.places)+len(turns.second.places) != 0 {
			r.Errorf("when all have had their turn, %d wait and there is %+v", len(waiting), turns)
		}
	})
}

func sharedRightly(r *rapid.T, most int, waiting, had []*turn) {
	places, again := make(map[string]share), 0
	for _, h := range had {
		p := places[h.place]
		p.all++
		if h.again {
			p.again++
			again++
		}
		places[h.place] = p
	}
	if len(had) > most || again > butOne(most) {
		r.Fatalf("%d turns of %d are had, %d of them by what failed before", len(had), most, again)
	}
	for place, n := range places {
		if n.all > butOne(most) || n.again > butOne(butOne(most)) {
			r.Fatalf("%s has %+v turns of %d", place, n, most)
		}
	}
	for _, w := range waiting {
		p := places[w.place]
		if len(had) < most && p.all < butOne(most) && (!w.again || again < butOne(most) && p.again < butOne(butOne(most))) {
			r.Fatalf("%+v waits, and a turn is free", w)
		}
	}
}

// What a place asks for is not served before what another asked for later, if it
// has been served since.
func TestPlacesAreServedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, time.Now)
		first, err := turns.take(t.Context(), Lease{Place: "z"})
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 16)
		for i, place := range []string{"a", "a", "a", "a", "b", "c", "b"} {
			go func() {
				due := time.Now().Add(-time.Duration(i) * time.Minute)
				mine, err := turns.take(context.Background(), Lease{Place: place, Due: due})
				if err != nil {
					t.Error(err)
					return
				}
				order <- fmt.Sprint(place, i)
				turns.giveBack(mine)
			}()
			synctest.Wait()
		}
		turns.giveBack(first)
		synctest.Wait()
		close(order)
		var got []string
		for who := range order {
			got = append(got, who)
		}
		if want := []string{"a3", "b6", "c5", "a2", "b4", "a1", "a0"}; !slices.Equal(got, want) {
			t.Errorf("served in the order %s", got)
		}
	})
}

// Who goes away while waiting leaves no gap, nor takes a turn along that came in
// the same moment.
func TestWhoDoesNotWaitForHisTurnLeavesItToOthers(t *testing.T) {
	for range 200 {
		turns := newTurns(1, time.Now)
		first, err := turns.take(t.Context(), Lease{Place: "a"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, goAway := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			second, err := turns.take(ctx, Lease{Place: "b"})
			if err == nil {
				turns.giveBack(second)
			}
			gone <- err
		}()
		go goAway()
		turns.giveBack(first)
		if err := <-gone; err != nil && (!errors.Is(err, errBusy) || !errors.Is(err, context.Canceled)) {
			t.Fatal(err)
		}
		goAway()
		if _, err := turns.take(ctx, Lease{Place: "b"}); !errors.Is(err, errBusy) {
			t.Fatalf("whose time is over begins all the same: %v", err)
		}
		third, err := turns.take(t.Context(), Lease{Place: "c"})
		if err != nil {
			t.Fatal(err)
		}
		turns.giveBack(third)
	}
}

// As many give way as wait too long and were never tried, and no more; nobody does
// so for what has failed before, or could not come to this turn.
func TestWhoTakesLongGivesWayToWhatWasNeverTried(t *testing.T) {
	overdue := time.Now().Add(-time.Minute)
	for name, c := range map[string]struct {
		waits  []Lease
		yields int
	}{
		"nobody waits":                          {nil, 0},
		"one of another place":                  {[]Lease{{Place: "v", Due: overdue}}, 1},
		"three, and one place may have two":     {[]Lease{{Place: "v", Due: overdue}, {Place: "v", Due: overdue}, {Place: "v", Due: overdue}}, 3},
		"one that is due just now":              {[]Lease{{Place: "v", Due: time.Now().Add(time.Hour)}}, 0},
		"one that has failed before":            {[]Lease{{Place: "v", Due: overdue, Attempts: 1}}, 0},
		"one of a place that has all it may":    {[]Lease{{Place: "a", Due: overdue}}, 1},
		"one more of the place that comes last": {[]Lease{{Place: "a", Due: overdue}, {Place: "b", Due: overdue}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			turns := newTurns(3, time.Now)
			var had []*turn
			for _, place := range []string{"a", "a", "b"} {
				mine, err := turns.take(t.Context(), Lease{Place: place})
				if err != nil {
					t.Fatal(err)
				}
				had = append(had, mine)
			}
			for _, l := range c.waits {
				w := &turn{place: l.Place, again: l.Attempts > 0, due: l.Due, mine: make(chan struct{})}
				turns.line(w).add(w)
			}
			yields := 0
			for _, h := range had {
				if turns.wanted(h) {
					yields++
				}
				if turns.gaveWay(h) != (yields > 0 && h.leaving) {
					t.Error("it is not told")
				}
			}
			if yields != c.yields || turns.leaving != c.yields {
				t.Errorf("%d give way, want %d", yields, c.yields)
			}
			for _, h := range had {
				turns.giveBack(h)
			}
			if turns.leaving != 0 {
				t.Errorf("%d are leaving when all have left", turns.leaving)
			}
		})
	}
}
