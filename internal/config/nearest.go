package config

import (
	"slices"
	"strings"
)

// DidYouMean returns "; did you mean X?" for the nearest known word, or "" if
// none is near.
func DidYouMean(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}

// Nearest returns the known word that word was most likely meant to be, "" if
// none is near: about a third of its letters may differ.
func Nearest(word string, known []string) string {
	best, least := "", len(word)/3+1+min(1, len(word)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes; two swapped neighbours count as one.
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100 // nobody's typing error
	}
	var before []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = slices.Min([]int{row[j-1] + 1, prev[j] + 1, prev[j-1] + cost})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}
