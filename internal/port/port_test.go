package port

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]Forward{
		"8080":              {Host: 8080, Guest: 8080, Any: true},
		"8080/tcp":          {Host: 8080, Guest: 8080, Any: true},
		"9000:80":           {Host: 9000, Guest: 80},
		"0:80":              {Guest: 80, Any: true},
		":80":               {Host: 80, Guest: 80, Any: true},
		"0.0.0.0:9000:80":   {Address: "0.0.0.0", Host: 9000, Guest: 80},
		"localhost:9000:80": {Host: 9000, Guest: 80},
		"[::1]:9000:80":     {Address: "::1", Host: 9000, Guest: 80},
		"192.0.2.7::80":     {Address: "192.0.2.7", Host: 80, Guest: 80, Any: true},
	} {
		got, err := Parse(text)
		if err != nil || got != want || !got.Valid() {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "0", "65536", "-1", "+80", "1:2:3:4", "80/udp", "a:b", "9000:0", "example.org:1:2", "[::1]9000:80:1:2", "1.2.3:1:2"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}

func TestShown(t *testing.T) {
	for f, want := range map[Forward]string{
		{Host: 9000, Guest: 80}:                     "127.0.0.1:9000:80",
		{Address: "::1", Host: 9000, Guest: 80}:     "[::1]:9000:80",
		{Address: "0.0.0.0", Host: 9000, Guest: 80}: "0.0.0.0:9000:80",
	} {
		if f.String() != want {
			t.Errorf("%+v is shown as %s", f, f)
		}
		if again, err := Parse(f.String()); err != nil || !again.Meets(f) {
			t.Errorf("%s is read as %+v, %v", f, again, err)
		}
	}
	if !(Forward{Address: "0.0.0.0"}).Public() || (Forward{Address: "127.0.0.1"}).Public() || (Forward{}).Public() {
		t.Error("what is public is wrong")
	}
}

func TestMeets(t *testing.T) {
	loopback := Forward{Host: 80, Guest: 1}
	for f, want := range map[Forward]bool{
		{Host: 80, Guest: 2}:                       true,
		{Host: 81, Guest: 1}:                       false,
		{Address: "127.0.0.1", Host: 80, Guest: 1}: true,
		{Address: "0.0.0.0", Host: 80, Guest: 1}:   true,
		{Address: "192.0.2.1", Host: 80, Guest: 1}: false,
		{Guest: 1, Any: true}:                      false,
	} {
		if loopback.Meets(f) != want || f.Meets(loopback) != want {
			t.Errorf("%+v: %v", f, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"8080", "1:2", "[::1]:1:2", "]:[", "::", ":::"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := Parse(text); err == nil && !got.Valid() {
			t.Errorf("%q was read as %+v", text, got)
		}
	})
}
