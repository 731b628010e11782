package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Nearest returns up to three of the known words that word may be a slip of,
// the nearest first; none if nothing is near.
func Nearest(word string, known []string) []string {
	type near struct {
		word     string
		distance int
	}
	var found []near
	limit := 1 + len(word)/4
	for _, k := range known {
		if len(word) > 64 || max(len(word), len(k))-min(len(word), len(k)) > limit {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d <= limit && d < len(k) {
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
// neighbours that lead from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(replace, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
