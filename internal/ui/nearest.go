package ui

import "strings"

// Nearest is the candidate that a mistyped word most likely meant, or "". At
// most a third of the longer word's letters may differ, one letter at least.
func Nearest(word string, candidates []string) string {
	best, found := "", -1
	for _, candidate := range candidates {
		limit := max(max(len(word), len(candidate))/3, 1)
		d := distance(strings.ToLower(word), strings.ToLower(candidate))
		if d <= limit && (found < 0 || d < found) {
			best, found = candidate, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour to turn a into b (optimal string alignment).
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
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
