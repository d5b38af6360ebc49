package config

import (
	"fmt"
	"strings"
)

// unknown says what is wrong with an agent's key that the table does not hold, and what was probably meant.
func unknown(name string) error {
	if k, ok := TopicKey(name); ok {
		if k.AgentKey != "" {
			return fmt.Errorf("%q is a topic's key; its default for all topics is set by %s", name, k.AgentKey)
		}
		return fmt.Errorf("%q is a topic's key; set it on a topic", name)
	}
	if ours := kafkaCounterparts()[name]; ours != "" {
		return fmt.Errorf("unknown key %q; here it is %s", name, ours)
	}
	return fmt.Errorf("unknown key %q%s", name, didYouMean(Nearest(name, AgentKeys())))
}

// Nearest is the name in keys that was probably meant, or empty when none is like it.
func Nearest(name string, keys []Key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	return nearest(name, names)
}

func nearest(name string, names []string) string {
	const longest = 128 // the distance costs the product of both lengths
	if len(name) > longest {
		return ""
	}
	best, least := "", len(name)/3+1 // farther away it is another word
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < least {
			best, least = candidate, d
		}
	}
	return best
}

func didYouMean(name string) string {
	if name == "" {
		return "; varve config lists all keys"
	}
	return fmt.Sprintf("; did you mean %s?", name)
}

// distance counts the letters to insert, delete or replace that turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
