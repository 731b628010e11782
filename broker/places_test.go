package broker

import (
	"fmt"
	"testing"
	"time"
)

// TestPlacesAreForgottenWhenTheyHaveTheirAllowanceAgain, so that memory stays
// bounded whoever comes.
func TestPlacesAreForgottenWhenTheyHaveTheirAllowanceAgain(t *testing.T) {
	l, now := newRateLimit(60), time.Unix(2e9, 0)
	for i := range maxPlaces {
		if wait := l.take(fmt.Sprint(i), TokenID{}, now); wait != 0 {
			t.Fatalf("place %d waits %v", i, wait)
		}
	}
	if wait := l.take("one more", TokenID{}, now); wait <= 0 || len(l.places) != maxPlaces {
		t.Errorf("all are busy: a new one waits %v, %d places are kept", wait, len(l.places))
	}
	if wait := l.take("7", TokenID{}, now); wait != 0 {
		t.Errorf("one that is known waits %v", wait)
	}
	now = now.Add(time.Minute)
	if wait := l.take("one more", TokenID{}, now); wait != 0 || len(l.places) != 1 {
		t.Errorf("a minute later a new one waits %v, %d places are kept", wait, len(l.places))
	}
}

// TestAClockSetBackGivesNoAllowance, and takes none for ever.
func TestAClockSetBackGivesNoAllowance(t *testing.T) {
	l, now := newRateLimit(2), time.Unix(2e9, 0)
	l.take("a", TokenID{}, now)
	l.take("a", TokenID{}, now)
	if wait := l.take("a", TokenID{}, now.Add(-time.Hour)); wait <= 0 || wait > time.Minute {
		t.Errorf("an hour back it waits %v", wait)
	}
	if wait := l.take("a", TokenID{}, now.Add(-time.Hour+time.Minute)); wait != 0 {
		t.Errorf("a minute later it waits %v", wait)
	}
}
