package escrow

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// refusal is an answer that the guest does not get, with the reason.
type refusal struct{ reason string }

func (r refusal) Error() string { return r.reason }

// answer looks at a host's answer before the guest gets it.
func (p *Proxy) answer(res *http.Response) error {
	if carried(res.Request) {
		if err := stays(res); err != nil {
			return err
		}
		if coding := res.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			return refusal{"its answer is compressed although that was not asked for, and could hide the credential"}
		}
	}
	p.veil.header(res.Header)
	res.Status = p.veil.text(res.Status)
	body := p.veil.body(res.Body, func() { p.veil.header(res.Trailer) })
	if w, ok := res.Body.(io.Writer); ok && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = veiledPipe{body, w}
		return nil
	}
	res.Body = body
	return nil
}

// stays refuses an answer that leads a request with a secret elsewhere.
func stays(res *http.Response) error {
	location := res.Header.Get("Location")
	if res.StatusCode < 300 || res.StatusCode > 399 || location == "" {
		return nil
	}
	to, err := res.Request.URL.Parse(location)
	if err != nil {
		return refusal{"it redirects to what is no address"}
	}
	from := res.Request.URL
	if to.Scheme != "https" || !strings.EqualFold(to.Hostname(), from.Hostname()) || portOf(to) != portOf(from) {
		return refusal{fmt.Sprintf("it redirects a request with a credential elsewhere, to %s://%s", to.Scheme, to.Host)}
	}
	return nil
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return "443"
}

// failed answers a request that no answer came for.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	text := p.veil.text(err.Error())
	var refused refusal
	if !errors.As(err, &refused) {
		text = "it cannot be reached: " + text
	}
	if r.Context().Err() == nil {
		p.Log("credential proxy", "host", r.Host, "error", text)
	}
	http.Error(w, fmt.Sprintf("smolvm: %s: %s", r.Host, text), http.StatusBadGateway)
}

// covered is a writer of answers that covers what comes before the answer itself:
// headers of informational answers are passed on by no hook.
type covered struct {
	http.ResponseWriter
	veil *veil
}

// WriteHeader covers the headers.
func (c covered) WriteHeader(code int) {
	c.veil.header(c.Header())
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap gives what it covers, for the controller of the answer.
func (c covered) Unwrap() http.ResponseWriter { return c.ResponseWriter }
