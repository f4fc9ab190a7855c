package preset

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// maxServices is far above what a sandbox for one agent needs.
const maxServices = 16

// restarts are the values of a service's field restart.
var restarts = []string{"", "always", "on-failure", "never"}

// checkServices checks the services of a preset that declares these ports.
func checkServices(services []Service, ports []int) error {
	if len(services) > maxServices {
		return fmt.Errorf("has %d entries, at most %d are possible", len(services), maxServices)
	}
	var errs []error
	var names []string
	for i, s := range services {
		errs = append(errs, within(fmt.Sprintf("service %d", i+1), s.check(ports)))
		names = append(names, s.Name)
	}
	return errors.Join(append(errs, distinct(names))...)
}

func (s Service) check(ports []int) error {
	if !isWord(s.Name) {
		return fmt.Errorf("name: %.40q does not consist of 1 to %d characters a-z, 0-9 and '-', beginning with a letter", s.Name, maxWord)
	}
	if err := checkCommand(s.Run); err != nil {
		return within("run", err)
	}
	if err := checkOptionalCommand(s.Ask); err != nil {
		return within("ask", err)
	}
	if err := checkOwner(s.User); err != nil {
		return within("user", err)
	}
	if s.Port != 0 && !slices.Contains(ports, s.Port) {
		return fmt.Errorf("port: %d is not one of the preset's ports", s.Port)
	}
	if !slices.Contains(restarts, s.Restart) {
		return fmt.Errorf("restart: %.40q is neither always, on-failure nor never", s.Restart)
	}
	return within("health", checkHealth(s.Health, s.Port))
}

// checkHealth accepts what can stand in a request's first line.
func checkHealth(path string, port int) error {
	switch u, err := url.ParseRequestURI(path); {
	case path == "":
		return nil
	case port == 0:
		return errors.New("there is no port to ask")
	case err != nil || !strings.HasPrefix(path, "/") || u.Host != "" || len(path) > maxText || strings.ContainsFunc(path, notInRequest):
		return fmt.Errorf("%.40q is not a path such as /health", path)
	}
	return nil
}

func notInRequest(r rune) bool { return r <= ' ' || r > '~' }
