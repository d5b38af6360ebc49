package journal

// Ahead is one step of Run.
func Ahead(j *Journal) error { return j.ahead() }
