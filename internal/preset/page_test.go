package preset

import "testing"

func TestPage(t *testing.T) {
	ports := []int{18789}
	token := []string{"cat", "token"}
	for _, p := range []*Page{
		nil, {Port: 18789, Path: "/"}, {Port: 18789, Path: "/#token={token}", Token: token}, {Port: 18789, Path: "/ui?t={token}", Token: token},
	} {
		if err := p.check(ports); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, p := range []Page{
		{},
		{Port: 80, Path: "/"},
		{Port: 18789},
		{Port: 18789, Path: "ui"},
		{Port: 18789, Path: "//host/x"},
		{Port: 18789, Path: "/a b"},
		{Port: 18789, Path: "/{token}"},
		{Port: 18789, Path: "/", Token: token},
		{Port: 18789, Path: "/\x1b"},
	} {
		if err := p.check(ports); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
	page := Page{Path: "/#token={token}"}
	if got, want := page.Address("127.0.0.1:9", "a&b c/"), "http://127.0.0.1:9/#token=a%26b+c%2F"; got != want {
		t.Errorf("address %s, want %s", got, want)
	}
}
