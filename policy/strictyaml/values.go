package strictyaml

import "time"

// Date is a calendar day, written 2027-03-01. The zero Date is no day.
type Date struct{ start time.Time }

// DayOf returns the day of t in UTC.
func DayOf(t time.Time) Date { return Date{t.UTC().Truncate(24 * time.Hour)} }

// IsZero reports whether no day is set.
func (d Date) IsZero() bool { return d.start.IsZero() }

// String returns 2027-03-01, or nothing for the zero Date.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	return d.start.Format(time.DateOnly)
}

// Over reports whether the day has ended at t, in UTC. The zero Date never
// ends.
func (d Date) Over(t time.Time) bool {
	return !d.IsZero() && !t.Before(d.start.AddDate(0, 0, 1))
}

// DecodeYAML implements [Decoder].
func (d *Date) DecodeYAML(n *Node) error {
	if n.Kind != Text {
		return n.Fault("must be a date such as 2027-03-01, not %s", n.Kind)
	}
	day, err := time.Parse(time.DateOnly, n.Text)
	if err != nil || day.IsZero() {
		return n.Fault("must be a date such as 2027-03-01")
	}
	d.start = day
	return nil
}

// Unsupported is the type of a key that belongs to the language but is not
// honoured by this version: its presence is a fault, so that nobody relies on
// it.
type Unsupported struct{}

// DecodeYAML implements [Decoder]. It always fails.
func (*Unsupported) DecodeYAML(n *Node) error {
	return n.Fault("is not supported by this version")
}

func decodeDuration(n *Node) (time.Duration, *Fault) {
	if n.Kind != Text {
		return 0, n.Fault("must be a duration with its unit, such as 15m, not %s", n.Kind)
	}
	d, err := time.ParseDuration(n.Text)
	if err != nil {
		return 0, n.Fault("must be a duration such as 90s, 15m or 1h30m")
	}
	return d, nil
}
