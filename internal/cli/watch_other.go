//go:build !linux

package cli

import "time"

// watchEvery is how often a log is looked at where no notification is used yet.
const watchEvery = 250 * time.Millisecond

// watchFile reports that the file may have changed, until stop is called.
func watchFile(string) (changes <-chan struct{}, stop func(), err error) {
	ticker := time.NewTicker(watchEvery)
	out, done, ended := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
			case <-done:
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, func() {
		ticker.Stop()
		close(done)
		<-ended
	}, nil
}
