package replay_test

import (
	"testing"

	"github.com/daypass-dev/daypass/broker/replay"
)

func TestOnlyAnAnswerToOurQuestionIsAnAnswer(t *testing.T) {
	good := []any{"nonce", "claimed", "1790000000000", "life", "0", "fence", "seen", ""}
	if err := replay.ReadAnswer(good, "nonce"); err != nil {
		t.Fatal(err)
	}
	replaced := func(i int, v any) []any {
		odd := append([]any(nil), good...)
		odd[i] = v
		return odd
	}
	for name, odd := range map[string]any{
		"nothing":                      nil,
		"a number":                     int64(1),
		"a bare OK":                    "OK",
		"an empty list":                []any{},
		"a short list":                 good[:7],
		"a long list":                  append(append([]any(nil), good...), "more"),
		"the answer to somebody else":  replaced(0, "another"),
		"an answer without a nonce":    replaced(0, ""),
		"a verdict that is a number":   replaced(1, int64(1)),
		"a verdict that is missing":    replaced(1, nil),
		"a time that is no number":     replaced(2, "soon"),
		"a time before all times":      replaced(2, "-1"),
		"a time that is zero":          replaced(2, "0"),
		"a fence that is a number":     replaced(5, int64(5)),
		"a server life that is a list": replaced(3, []any{}),
	} {
		if err := replay.ReadAnswer(odd, "nonce"); err == nil {
			t.Errorf("%s is taken for an answer", name)
		}
	}
}
