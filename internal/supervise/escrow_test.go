package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestHeldSecrets: the guest's credentials get a placeholder, the same at every
// start of a sandbox, and its machine a certificate.
func TestHeldSecrets(t *testing.T) {
	const value = "sk-ant-real-5f1d0c77ab"
	var log bytes.Buffer
	held := func(rec record.Record) (*supervisor, error) {
		life, end := context.WithCancel(context.Background())
		s := &supervisor{Options: Options{Now: time.Now}, rec: rec, log: slog.New(slog.NewTextHandler(&log, nil))}
		s.order = Order{Secrets: []escrow.Secret{{
			Name: "API_KEY", Value: value, Prefix: "sk-ant-", Rules: []escrow.Rule{{Host: "api.example.com", Port: 443, Header: "x-api-key"}},
		}}}
		t.Cleanup(func() {
			end()
			s.running.Wait()
		})
		return s, s.hold(life)
	}
	first, err := held(record.Record{ID: "i-1", Network: true})
	if err != nil {
		t.Fatal(err)
	}
	again, err := held(record.Record{ID: "i-1", Network: true})
	if err != nil {
		t.Fatal(err)
	}
	other, err := held(record.Record{ID: "i-2", Network: true})
	if err != nil {
		t.Fatal(err)
	}
	placeholder := first.order.Credentials.Env["API_KEY"]
	if !strings.HasPrefix(placeholder, "sk-ant-smolvm-placeholder-") || placeholder != again.order.Credentials.Env["API_KEY"] || placeholder == other.order.Credentials.Env["API_KEY"] {
		t.Errorf("placeholders are %s, %v, %v", placeholder, again.order.Credentials.Env, other.order.Credentials.Env)
	}
	if told, err := json.Marshal(wire.Message{Credentials: first.order.Credentials}); err != nil || bytes.Contains(told, []byte(value)) {
		t.Errorf("the guest is told %s, %v", told, err)
	}
	if block, _ := pem.Decode(first.authority()); block == nil || block.Type != "CERTIFICATE" || bytes.Equal(first.authority(), again.authority()) {
		t.Error("each start has to have a certificate of its own")
	}
	if strings.Contains(log.String(), value) {
		t.Errorf("logged: %s", log.String())
	}
	if _, err := held(record.Record{ID: "i-3"}); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("without a network: %v", err)
	}
	none := &supervisor{}
	if err := none.hold(t.Context()); err != nil || none.authority() != nil || none.escrow != nil {
		t.Errorf("without secrets: %v", err)
	}
}
