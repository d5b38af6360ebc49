package chaos

import "testing"

// TestCrashOnAFaultyStore kills an agent whose S3 server is slow, refuses, loses answers, and damages bodies.
func TestCrashOnAFaultyStore(t *testing.T) {
	for i, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			seed := *seedFlag + 20 + uint64(i)
			s := newStores(t, seed)
			rounds := max(2, *roundsFlag/(5+5*i))
			crash(t, s.world(build(t), driver), rounds, seed)
			t.Logf("the proxy's requests: %s", s.proxy.summary())
			kinds := []faultKind{slowDown, reset, lost, slow, cut}
			if rounds >= ciRounds {
				kinds = append(kinds, short, flipped, duplicated) // these are rare
			}
			if none := s.proxy.missing(kinds...); len(none) > 0 {
				t.Errorf("these faults never happened: %v", none)
			}
		})
	}
}
