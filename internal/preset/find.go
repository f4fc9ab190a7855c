package preset

import "strings"

// Find finds the preset that a word names, by its name or an alias.
func Find(presets []Preset, word string) (Preset, bool) {
	for _, p := range presets {
		for _, w := range p.Words() {
			if w == word {
				return p, true
			}
		}
	}
	return Preset{}, false
}

// Nearest is the preset's word that a mistyped word most likely meant, or "".
func Nearest(presets []Preset, word string) string {
	var words []string
	for _, p := range presets {
		words = append(words, p.Words()...)
	}
	return NearestWord(word, words)
}

// maxMistyped bounds what is compared: nobody mistypes words longer than that.
const maxMistyped = 64

// NearestWord is the candidate that differs from word in the fewest letters,
// the first of several, or "" when more than a third of the letters differ.
func NearestWord(word string, candidates []string) string {
	if len(word) > maxMistyped {
		return ""
	}
	nearest, fewest := "", len(word)+1
	for _, candidate := range candidates {
		d := distance(strings.ToLower(word), strings.ToLower(candidate))
		if d < fewest && d <= max(1, max(len(word), len(candidate))/3) {
			nearest, fewest = candidate, d
		}
	}
	return nearest
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b out of a (optimal string alignment).
func distance(a, b string) int {
	before, last, row := []int(nil), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, make([]int, len(b)+1)
	}
	return last[len(b)]
}
