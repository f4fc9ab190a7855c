package fetch

// delivery counts what one stream brings for the place it comes from.
type delivery struct {
	m     *Mirrors
	place *place
	file  string
	seen  int // incidents of the place when the stream began
}

func (d *delivery) arrived(n int64) {
	if n == 0 {
		return
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.place.progressed(n, d.m.enough())
}

// ended hears of a complete answer (nil) or of why it ended early.
func (d *delivery) ended(s *Stream, err error) {
	d.m.mu.Lock()
	defer d.m.unlock()
	switch {
	case err == nil:
		d.place.progressed(d.m.enough(), d.m.enough())
	case !s.closed():
		d.m.learn(d.place, d.file, d.seen, err)
	}
}

// enough is how many bytes make up for a failure: what the rate floor asks of one
// connection before it is cut off.
func (m *Mirrors) enough() int64 {
	return max(int64(float64(m.source.floor)*m.source.stall.Seconds()), 1)
}
