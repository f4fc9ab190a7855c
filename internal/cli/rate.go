package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// worthMeasuring is how much a download must have to say something of the link, in
// bytes: less is over before connections are up to speed.
const worthMeasuring = 8 << 20

// rateFile keeps the rate of the last download, for plans. It is worth nothing
// after a crash: it is not synced, and a damaged one knows nothing.
const rateFile = "rate.json"

// rate is the content of that file.
type rate struct {
	BytesPerSecond float64 `json:"bytes_per_second"`
}

// measured remembers how fast a download was. That it cannot is no loss.
func (a *App) measured(bytes int64, took time.Duration) {
	c, err := a.Config()
	if err != nil || bytes < worthMeasuring || took <= 0 {
		return
	}
	raw, err := json.Marshal(rate{float64(bytes) / took.Seconds()})
	if err != nil {
		return
	}
	path := filepath.Join(c.Home, rateFile)
	if os.WriteFile(path+".tmp", append(raw, '\n'), 0o644) == nil {
		_ = os.Rename(path+".tmp", path)
	}
}

// duration is how long a download would take at the last rate in seconds; nil:
// there is nothing to download, or no rate is known.
func (a *App) duration(bytes int64) *float64 {
	c, err := a.Config()
	if err != nil || bytes == 0 {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(c.Home, rateFile))
	var last rate
	if err != nil || json.Unmarshal(raw, &last) != nil || last.BytesPerSecond < 1 {
		return nil
	}
	seconds := float64(bytes) / last.BytesPerSecond
	return &seconds
}
