package main

import "slices"

// conversations are all cases, by section of the protocol checklist.
func conversations() []conversation {
	return slices.Concat(connectionCases(), topicCases(), adminCases(), configCases(), produceCases(), fetchCases(), offsetCases(),
		producerCases(), groupCases(), groupOffsetCases())
}
