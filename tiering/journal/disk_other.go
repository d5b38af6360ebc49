//go:build unix && !linux

package journal

func (f *osFile) WriteAt(bufs [][]byte, off int64) error {
	for _, b := range bufs {
		if _, err := f.f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func (f *osFile) Sync() error   { return f.f.Sync() }
func (f *osFile) Settle() error { return f.Sync() }
