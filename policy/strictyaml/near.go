package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxWord is how long a word may be that is looked for.
const maxWord = 64

// Nearest returns up to three of the known words that word may be a slip of,
// the nearest first; none if nothing is near.
func Nearest(word string, known []string) []string {
	type near struct {
		word     string
		distance int
	}
	var found []near
	if len(word) > maxWord {
		return nil
	}
	limit, lower := 1+len(word)/4, strings.ToLower(word)
	for _, k := range known {
		if max(len(word), len(k))-min(len(word), len(k)) > limit {
			continue
		}
		if d := distance(lower, strings.ToLower(k), limit); d <= limit && d < len(k) {
			found = append(found, near{k, d})
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.word, b.word))
	})
	words := make([]string, 0, 3)
	for _, n := range found[:min(len(found), 3)] {
		words = append(words, n.word)
	}
	return words
}

// DidYouMean returns "; did you mean a or b?" for the words that are near, and
// nothing if none is.
func DidYouMean(word string, known []string) string {
	near := Nearest(word, known)
	if len(near) == 0 {
		return ""
	}
	for i, n := range near {
		near[i] = fmt.Sprintf("%q", n)
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that lead from a to b, and gives up above limit.
func distance(a, b string, limit int) int {
	var rows [3][2*maxWord + 1]int // the row before the last, the last, and the next
	before, last, next := &rows[0], &rows[1], &rows[2]
	if len(a) > 2*maxWord || len(b) > 2*maxWord { // lower case can be longer
		return limit + 1
	}
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			next[j] = min(replace, last[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
			least = min(least, next[j])
		}
		if least > limit { // and no row after it has less
			return least
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
