package preset

import (
	"strings"
	"testing"
)

func sample() Preset {
	return Preset{
		Name: "claude-code", Aliases: []string{"claude"}, Summary: "Claude Code, an agent",
		Agent:  Agent{Name: "Claude Code", Version: "2.1.330", Check: []string{"claude", "--version"}},
		Launch: []string{"claude", "--yes"}, Ask: []string{"claude"},
		Environment: []string{"ANTHROPIC_API_KEY"}, Ports: []int{18789},
		Credentials: []Credential{{Name: "ANTHROPIC_API_KEY", Host: "api.example.com:8443", Header: "x-api-key", Prefix: "sk-ant-", Address: "BASE_URL"}},
		Services:    []Service{{Name: "gateway", Run: []string{"claude", "serve"}, Port: 18789, Health: "/health?a=b", Restart: "on-failure"}},
		Resources:   Resources{MemoryMiB: 2048, DiskMiB: 20480},
		Recipe: Recipe{
			Steps: []Step{{Name: "install", Run: "npm install claude@2.1.330"}},
			Files: []File{{Path: "/home/agent/.claude.json", Mode: "0600", Content: "{}"}},
			Locks: []Lock{{File: "claude/lock.json", SHA256: strings.Repeat("0a", 32)}},
		},
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Preset){
		"sample":        func(*Preset) {},
		"no aliases":    func(p *Preset) { p.Aliases = nil },
		"no ask":        func(p *Preset) { p.Ask = nil },
		"build":         func(p *Preset) { p.Agent.Version, p.Recipe.Steps[0].Run = "1.0-rc.1+x", "x==1.0-rc.1+x" },
		"steps as":      func(p *Preset) { p.Recipe.Steps[0].User = "agent" },
		"no files":      func(p *Preset) { p.Recipe.Files = nil },
		"a field":       func(p *Preset) { p.Credentials[0].Header, p.Credentials[0].Field = "", "key" },
		"long name":     func(p *Preset) { p.Name = strings.Repeat("a", 31) },
		"no services":   func(p *Preset) { p.Services = nil },
		"plain service": func(p *Preset) { p.Services[0] = Service{Name: "x", Run: []string{"x"}} },
		"other script":  func(p *Preset) { p.Summary = "Пи, маленький агент" },
	} {
		p := sample()
		change(&p)
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	many := make([]string, maxList+1)
	for _, c := range []struct {
		want   string
		change func(*Preset)
	}{
		{"name:", func(p *Preset) { p.Name = "" }},
		{"name:", func(p *Preset) { p.Name = "../x" }},
		{"name:", func(p *Preset) { p.Name = "Claude" }},
		{"name:", func(p *Preset) { p.Name = "1st" }},
		{"name:", func(p *Preset) { p.Name = strings.Repeat("a", 32) }},
		{"is a command", func(p *Preset) { p.Name = "list" }},
		{"is a command", func(p *Preset) { p.Aliases = []string{"base"} }},
		{"aliases: claude-code is there twice", func(p *Preset) { p.Aliases = []string{"claude-code"} }},
		{"aliases:", func(p *Preset) { p.Aliases = []string{"a b"} }},
		{"summary: is missing", func(p *Preset) { p.Summary = " " }},
		{"summary:", func(p *Preset) { p.Summary = "two\nlines" }},
		{"summary:", func(p *Preset) { p.Summary = "\x1b[31mred" }},
		{"agent.name:", func(p *Preset) { p.Agent.Name = "" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "latest" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "^1.2.3" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "1.x" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "1..2" }},
		{"agent.version:", func(p *Preset) { p.Agent.Version = "1 || 2" }},
		{"agent.check: is missing", func(p *Preset) { p.Agent.Check = nil }},
		{"launch: is missing", func(p *Preset) { p.Launch = nil }},
		{"launch: is missing", func(p *Preset) { p.Launch = []string{""} }},
		{"launch:", func(p *Preset) { p.Launch = []string{"a", "b\x00c"} }},
		{"launch: has 65", func(p *Preset) { p.Launch = append([]string{"a"}, many[1:]...) }},
		{"ask:", func(p *Preset) { p.Ask = []string{"a", "\xff"} }},
		{"environment:", func(p *Preset) { p.Environment = []string{"KEY=secret"} }},
		{"environment:", func(p *Preset) { p.Environment = []string{"1A"} }},
		{"environment: A is there twice", func(p *Preset) { p.Environment = []string{"A", "A"} }},
		{"credential 1: name:", func(p *Preset) { p.Credentials[0].Name = "OTHER" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "https://api.example.com" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "*.example.com" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "10.0.0.1" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "localhost" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "api.example.com:0" }},
		{"credential 1: host:", func(p *Preset) { p.Credentials[0].Host = "api.example.com:" }},
		{"header or a field", func(p *Preset) { p.Credentials[0].Header = "" }},
		{"header or a field", func(p *Preset) { p.Credentials[0].Field = "key" }},
		{"credential 1: header:", func(p *Preset) { p.Credentials[0].Header = "x: y" }},
		{"credential 1: field:", func(p *Preset) { p.Credentials[0].Header, p.Credentials[0].Field = "", "a\nb" }},
		{"credential 1: prefix:", func(p *Preset) { p.Credentials[0].Prefix = "sk ant" }},
		{"credential 1: address:", func(p *Preset) { p.Credentials[0].Address = "A=b" }},
		{"is there twice", func(p *Preset) { p.Credentials = append(p.Credentials, p.Credentials[0]) }},
		{"credential 2: prefix:", func(p *Preset) {
			p.Credentials = append(p.Credentials, Credential{Name: "ANTHROPIC_API_KEY", Host: "b.example.com", Header: "a"})
		}},
		{"ports: 0", func(p *Preset) { p.Ports = []int{0} }},
		{"ports: 65536", func(p *Preset) { p.Ports = []int{65536} }},
		{"arguments:", func(p *Preset) { p.Arguments = []string{"a\x00"} }},
		{"service 1: name:", func(p *Preset) { p.Services[0].Name = "../x" }},
		{"service 1: name:", func(p *Preset) { p.Services[0].Name = "" }},
		{"service 1: run: is missing", func(p *Preset) { p.Services[0].Run = nil }},
		{"service 1: ask:", func(p *Preset) { p.Services[0].Ask = many }},
		{"service 1: user:", func(p *Preset) { p.Services[0].User = "daemon" }},
		{"service 1: port: 80 is not", func(p *Preset) { p.Services[0].Port = 80 }},
		{"service 1: port: -1", func(p *Preset) { p.Services[0].Port = -1 }},
		{"service 1: health: there is no port", func(p *Preset) { p.Services[0].Port = 0 }},
		{"service 1: health:", func(p *Preset) { p.Services[0].Health = "health" }},
		{"service 1: health:", func(p *Preset) { p.Services[0].Health = "http://elsewhere/" }},
		{"service 1: health:", func(p *Preset) { p.Services[0].Health = "/a b" }},
		{"service 1: health:", func(p *Preset) { p.Services[0].Health = "/a\r\nX: y" }},
		{"service 1: restart:", func(p *Preset) { p.Services[0].Restart = "often" }},
		{"services: gateway is there twice", func(p *Preset) { p.Services = append(p.Services, p.Services[0]) }},
		{"services: has 17", func(p *Preset) { p.Services = make([]Service, maxServices+1) }},
		{"cpus: -1", func(p *Preset) { p.Resources.CPUs = -1 }},
		{"memory_mib: 0", func(p *Preset) { p.Resources.MemoryMiB = 0 }},
		{"disk_mib:", func(p *Preset) { p.Resources.DiskMiB = 1 << 62 }},
		{"0 steps", func(p *Preset) { p.Recipe.Steps = nil }},
		{"step 1: name:", func(p *Preset) { p.Recipe.Steps[0].Name = "" }},
		{"step 1: user:", func(p *Preset) { p.Recipe.Steps[0].User = "daemon" }},
		{"step 1: run:", func(p *Preset) { p.Recipe.Steps[0].Run = "\n" }},
		{"step 1: run:", func(p *Preset) { p.Recipe.Steps[0].Run = strings.Repeat("x", maxScript+1) }},
		{"install is there twice", func(p *Preset) { p.Recipe.Steps = append(p.Recipe.Steps, p.Recipe.Steps[0]) }},
		{"nothing pins it", func(p *Preset) { p.Recipe.Steps[0].Run = "npm install claude" }},
		{"file 1: path:", func(p *Preset) { p.Recipe.Files[0].Path = "etc/x" }},
		{"file 1: path:", func(p *Preset) { p.Recipe.Files[0].Path = "/home/../etc/x" }},
		{"file 1: path:", func(p *Preset) { p.Recipe.Files[0].Path = "/" }},
		{"file 1: path:", func(p *Preset) { p.Recipe.Files[0].Path = "/proc/sys/x" }},
		{"file 1: owner:", func(p *Preset) { p.Recipe.Files[0].Owner = "1000" }},
		{"file 1: mode:", func(p *Preset) { p.Recipe.Files[0].Mode = "4755" }},
		{"file 1: mode:", func(p *Preset) { p.Recipe.Files[0].Mode = "rw" }},
		{"lock 1: file:", func(p *Preset) { p.Recipe.Locks[0].File = "../lock.json" }},
		{"lock 1: file:", func(p *Preset) { p.Recipe.Locks[0].File = "/etc/passwd" }},
		{"lock 1: file:", func(p *Preset) { p.Recipe.Locks[0].File = "a b;c" }},
		{"lock 1: file:", func(p *Preset) { p.Recipe.Locks[0].File = "" }},
		{"lock 1: sha256:", func(p *Preset) { p.Recipe.Locks[0].SHA256 = "" }},
		{"lock 1: sha256:", func(p *Preset) { p.Recipe.Locks[0].SHA256 = strings.Repeat("0A", 32) }},
		{"is there twice", func(p *Preset) { p.Recipe.Locks = append(p.Recipe.Locks, p.Recipe.Locks[0]) }},
		{"file 1: content:", func(p *Preset) { p.Recipe.Files[0].Content = "\x00" }},
	} {
		p := sample()
		c.change(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestValidateSaysAll(t *testing.T) {
	err := Preset{}.Validate()
	for _, field := range []string{"name:", "summary:", "agent.version:", "launch:", "resources:", "recipe:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("an empty preset: %v does not say %s", err, field)
		}
	}
}

func TestFind(t *testing.T) {
	all := []Preset{{Name: "codex"}, sample()}
	for word, want := range map[string]string{"claude": "claude-code", "claude-code": "claude-code", "codex": "codex", "cod": "", "": ""} {
		if p, ok := Find(all, word); p.Name != want || ok != (want != "") {
			t.Errorf("%q finds %q, %v", word, p.Name, ok)
		}
	}
}

func TestNearest(t *testing.T) {
	all := []Preset{{Name: "openclaw"}, sample(), {Name: "codex"}, {Name: "hermes"}, {Name: "pi"}}
	for word, want := range map[string]string{
		"cluade": "claude", "claud": "claude", "claude-cod": "claude-code", "Codex": "codex", "hremes": "hermes",
		"open-claw": "openclaw", "po": "pi", "docker": "", "": "", strings.Repeat("codex", 100): "",
	} {
		if got := Nearest(all, word); got != want {
			t.Errorf("nearest to %.20q is %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"ca", "abc", 3}, {"kitten", "sitting", 3}, {"abcd", "badc", 2}} {
		if got, back := distance(c.a, c.b), distance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("%q to %q: %d and back %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
}
