package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/flagstead/flagstead/internal/protocol"
)

// A Config is what a file says that a process is to run. Read makes one.
type Config struct {
	FeatBit      FeatBit       `yaml:"featbit"`
	Relay        Relay         `yaml:"relay"`
	Admin        Admin         `yaml:"admin"`
	Events       Events        `yaml:"events"`
	Defaults     Settings      `yaml:"defaults"`
	Environments []Environment `yaml:"environments"`
	RelayProxy   *RelayProxy   `yaml:"relay-proxy"`
	Metrics      Metrics       `yaml:"metrics"`
	Log          Log           `yaml:"log"`

	// State is a directory for what must survive a restart: events that are not
	// delivered, and what a relay proxy's key gave access to. Empty: nothing does.
	State string `yaml:"state"`
}

// FeatBit says where the platform is.
type FeatBit struct {
	URL    string `yaml:"url"`    // of the evaluation server
	Events string `yaml:"events"` // of the event server; empty: the same
	TLS    TLS    `yaml:"tls"`
}

// TLS names PEM files.
type TLS struct {
	CA   string `yaml:"ca"`   // authorities, in place of the system's
	Cert string `yaml:"cert"` // what this process identifies itself by
	Key  string `yaml:"key"`
}

// Relay says how SDKs are served.
type Relay struct {
	Listen         string     `yaml:"listen"` // empty: not at all
	TLS            TLS        `yaml:"tls"`
	TokenWindow    Duration   `yaml:"token-window"`
	MaxConnections int        `yaml:"max-connections"` // per environment
	Drain          Duration   `yaml:"drain"`
	AllowedOrigins []string   `yaml:"allowed-origins"`
	RateLimits     RateLimits `yaml:"rate-limits"`
}

// RateLimits are requests per second and environment; zero is no limit.
type RateLimits struct {
	Streaming float64 `yaml:"streaming"`
	SDK       float64 `yaml:"sdk"`
	Insight   float64 `yaml:"insight"`
	Evaluate  float64 `yaml:"evaluate"`
}

// Admin says where operators look.
type Admin struct {
	Listen string `yaml:"listen"` // empty: 127.0.0.1:6101; "off": nowhere
}

// Events says what becomes of insights.
type Events struct {
	Forward *bool  `yaml:"forward"` // to FeatBit; unset: if there is a URL
	Spool   string `yaml:"spool"`   // directory; empty: spool in State, or in memory
	MaxSize Size   `yaml:"max-size"`
	Outbox  *bool  `yaml:"outbox"` // deliver what readers left in the stores; unset: yes
}

// Settings are those of an environment that may have defaults for all.
type Settings struct {
	Store     string   `yaml:"store"` // {env} stands for the name, {id} for the id
	Reconcile Duration `yaml:"reconcile"`
	Poll      string   `yaml:"poll"` // fallback, never or always
	Lease     *bool    `yaml:"lease"`
	History   *int     `yaml:"history"`
	Guard     Guard    `yaml:"guard"`
}

// Guard is the syncer's.
type Guard struct {
	Off        bool     `yaml:"off"`
	MaxRemoved Percent  `yaml:"max-removed"`
	Wait       Duration `yaml:"wait"`
}

// An Environment is one that is named in the file.
type Environment struct {
	Settings `yaml:",inline"`

	Name             string `yaml:"name"`
	Secret           string `yaml:"secret"`
	SecretFile       string `yaml:"secret-file"`
	ClientSecret     string `yaml:"client-secret"`
	ClientSecretFile string `yaml:"client-secret-file"`
	From             string `yaml:"from"` // another store as the source, in place of FeatBit
	Sync             *bool  `yaml:"sync"` // false: the store is only served

	// Accept and AcceptClient are further secrets that SDKs may use on the relay,
	// while they are changed from old to new ones.
	Accept       []string `yaml:"accept"`
	AcceptClient []string `yaml:"accept-client"`

	server, client       protocol.Secret
	accept, acceptClient []protocol.Secret
	id                   string
}

// RelayProxy serves all environments of a FeatBit relay proxy.
type RelayProxy struct {
	Settings `yaml:",inline"`

	Key      string `yaml:"key"`
	KeyFile  string `yaml:"key-file"`
	Mode     string `yaml:"mode"` // auto: connect to FeatBit; manual: be sent bootstraps by it
	AgentID  string `yaml:"agent-id"`
	Register *bool  `yaml:"register"` // unset: yes

	key protocol.ProxyKey
}

func (p *RelayProxy) manual() bool { return p.Mode == "manual" }

// Log says what is logged.
type Log struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn or error
}

// A Duration is a time.Duration that is written as "10m".
type Duration time.Duration

// UnmarshalYAML reads it.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a time such as 30s or 10m", n.Value)
	}
	*d = Duration(v)
	return nil
}

// A Percent is a share that is written as "50%".
type Percent float64

// UnmarshalYAML reads it.
func (p *Percent) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseFloat(strings.TrimSuffix(n.Value, "%"), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return fmt.Errorf("%q is not a share above 0%% and at most 100%%", n.Value)
	}
	*p = Percent(v / 100)
	return nil
}

// A Size is a number of bytes that is written as "256MB".
type Size int64

// UnmarshalYAML reads it.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	text, unit := strings.ToUpper(strings.TrimSpace(n.Value)), int64(1)
	for suffix, factor := range map[string]int64{"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(rest), factor
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v <= 0 || v > (1<<62)/unit {
		return fmt.Errorf("%q is not a size such as 256MB", n.Value)
	}
	*s = Size(v * unit)
	return nil
}

// maxFile bounds a configuration file and what it names.
const maxFile = 4 << 20

// Read reads a configuration file, with ${NAME} in its texts replaced by the
// environment variable of that name, which lookup returns, and the files that hold
// secrets. Errors name the file, the line if there is one, and what is wrong, but no
// secret. Names of files are relative to the directory of the file.
func Read(path string, lookup func(string) (string, bool)) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c, err := parse(text, lookup)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.relativeTo(filepath.Dir(path))
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", path, st.Size(), maxFile)
	}
	return os.ReadFile(path)
}

func parse(text []byte, lookup func(string) (string, bool)) (*Config, error) {
	var root yaml.Node
	var c Config
	if len(strings.TrimSpace(string(text))) == 0 {
		return &c, nil
	}
	if err := yaml.Load(text, &root); err != nil {
		return nil, inWords(err)
	}
	if err := expand(&root, lookup); err != nil {
		return nil, err
	}
	if err := root.Load(&c, yaml.WithKnownFields()); err != nil {
		return nil, inWords(err)
	}
	return &c, nil
}

var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	wrongType    = regexp.MustCompile("cannot construct !!(\\w+)(?: `[^`]*`)? into \\S+")
)

// inWords returns an error of the parser for people who write the file. Values are
// left out: one may be a secret.
func inWords(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: construct errors: ")
	text = strings.TrimPrefix(text, "go-yaml load error in ")
	text = unknownField.ReplaceAllString(text, "there is no setting $1 here")
	text = wrongType.ReplaceAllString(text, "a value of the wrong kind ($1)")
	return errors.New(text)
}

var reference = regexp.MustCompile(`\$(\$|\{[^}]*\})`)

// expand replaces ${NAME} in all texts under n. $${NAME} stands for ${NAME}.
func expand(n *yaml.Node, lookup func(string) (string, bool)) error {
	if n.Kind == yaml.ScalarNode {
		var missing string
		value := reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
			if ref == "$$" {
				return "$"
			}
			name := ref[2 : len(ref)-1]
			name, fallback, has := strings.Cut(name, ":-")
			if v, ok := lookup(name); ok && (v != "" || !has) {
				return v
			}
			if !has {
				missing = name
			}
			return fallback
		})
		if missing != "" {
			return fmt.Errorf("line %d: the environment variable %s is not set", n.Line, missing)
		}
		if value != n.Value {
			n.Value, n.Tag = value, "!!str"
			if plainValue.MatchString(value) { // also in quotes, which ${…} needs in places
				n.Tag, n.Style = "", 0
			}
		}
		return nil
	}
	for _, child := range n.Content {
		if err := expand(child, lookup); err != nil {
			return err
		}
	}
	return nil
}

var plainValue = regexp.MustCompile(`^(-?\d+(\.\d+)?|true|false)$`)

func (c *Config) relativeTo(dir string) {
	names := []*string{
		&c.FeatBit.TLS.CA, &c.FeatBit.TLS.Cert, &c.FeatBit.TLS.Key,
		&c.Relay.TLS.CA, &c.Relay.TLS.Cert, &c.Relay.TLS.Key, &c.Events.Spool, &c.State,
	}
	for i := range c.Environments {
		names = append(names, &c.Environments[i].SecretFile, &c.Environments[i].ClientSecretFile)
	}
	if c.RelayProxy != nil {
		names = append(names, &c.RelayProxy.KeyFile)
	}
	for _, name := range names {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
}

// Complete reads the secrets, fills in the defaults and says what is missing or
// wrong. Whoever changes settings after Read does so before.
func (c *Config) Complete() error {
	c.Admin.Listen = cmp.Or(c.Admin.Listen, "127.0.0.1:6101")
	c.Log.Format, c.Log.Level = cmp.Or(c.Log.Format, "text"), cmp.Or(c.Log.Level, "info")
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return fmt.Errorf("log.level: %q is none of debug, info, warn and error", c.Log.Level)
	}
	if err := c.Metrics.check(); err != nil {
		return fmt.Errorf("metrics.%w", err)
	}
	if len(c.Environments) == 0 && c.RelayProxy == nil {
		return errors.New("there is nothing to do: no environments and no relay-proxy")
	}
	if c.Relay.TLS.CA != "" || (c.Relay.TLS.Cert == "") != (c.Relay.TLS.Key == "") {
		return errors.New("relay.tls: want cert and key")
	}
	if c.FeatBit.URL != "" {
		if _, err := protocol.BaseURL(c.FeatBit.URL, "ws"); err != nil {
			return fmt.Errorf("featbit.url: %w", err)
		}
	}
	if c.FeatBit.Events != "" {
		if _, err := protocol.BaseURL(c.FeatBit.Events, "http"); err != nil {
			return fmt.Errorf("featbit.events: %w", err)
		}
	}
	names, ids, secrets, stores := map[string]bool{}, map[string]string{}, map[protocol.Secret]string{}, map[string]string{}
	for i := range c.Environments {
		e := &c.Environments[i]
		where := fmt.Sprintf("environments[%d]", i)
		if e.Name == "" {
			return fmt.Errorf("%s: no name", where)
		}
		where = fmt.Sprintf("environment %q", e.Name)
		if names[e.Name] {
			return fmt.Errorf("%s: there are two of this name", where)
		}
		names[e.Name] = true
		if err := e.complete(c); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if other := ids[e.id]; other != "" && c.Relay.Listen != "" {
			return fmt.Errorf("%s: %s is the same environment; a relay serves it from one store", where, other)
		}
		if e.id != "" {
			ids[e.id] = where
		}
		for _, s := range e.secrets() {
			if other := secrets[s]; other != "" {
				return fmt.Errorf("%s: %s has the same secret", where, other)
			}
			secrets[s] = where
		}
		if other := stores[e.Store]; other != "" && e.Store != MemoryStore {
			return fmt.Errorf("%s: %s has the same store, %s; an environment needs a place of its own", where, other, redact(e.Store))
		}
		stores[e.Store] = where
	}
	if c.Events.Spool == "" && c.State != "" {
		c.Events.Spool = filepath.Join(c.State, "spool")
	}
	if c.RelayProxy != nil {
		if err := c.RelayProxy.complete(c); err != nil {
			return fmt.Errorf("relay-proxy: %w", err)
		}
	}
	return nil
}

// MemoryStore is the URL of a store that other processes cannot read.
const MemoryStore = "memory:"

func (e *Environment) complete(c *Config) (err error) {
	if e.server, err = secret("secret", e.Secret, e.SecretFile); err != nil {
		return err
	}
	if e.client, err = secret("client-secret", e.ClientSecret, e.ClientSecretFile); err != nil {
		return err
	}
	e.accept, e.acceptClient = nil, nil
	for _, text := range e.Accept {
		e.accept = append(e.accept, protocol.Secret(text))
	}
	for _, text := range e.AcceptClient {
		e.acceptClient = append(e.acceptClient, protocol.Secret(text))
	}
	for _, s := range e.secrets() {
		id, err := s.EnvID()
		switch {
		case err != nil:
			return err
		case e.id != "" && e.id != id:
			return errors.New("its secrets are of different environments")
		}
		e.id = id
	}
	if err := e.inherit(c.Defaults); err != nil {
		return err
	}
	if e.Store == "" {
		return errors.New("no store, and none in defaults")
	}
	if strings.Contains(e.Store, "{id}") && e.id == "" {
		return errors.New("its store needs an id, which only a secret tells")
	}
	e.Store = locate(e.Store, e.Name, e.id)
	switch {
	case e.Sync != nil && !*e.Sync:
		if e.From != "" {
			return errors.New("sync: false and from contradict each other")
		}
	case e.From == e.Store && e.From != "":
		return errors.New("from is its own store")
	case e.From != "":
	case c.FeatBit.URL == "":
		return errors.New("no source: neither featbit.url nor from; sync: false only serves the store")
	case e.server == "":
		return errors.New("no secret; give secret or secret-file")
	}
	if c.Relay.Listen != "" && e.server == "" && e.client == "" {
		return errors.New("no secret that SDKs could use on the relay")
	}
	return nil
}

// secrets returns all that the environment has.
func (e *Environment) secrets() []protocol.Secret {
	all := slices.Concat([]protocol.Secret{e.server, e.client}, e.accept, e.acceptClient)
	return slices.DeleteFunc(all, func(s protocol.Secret) bool { return s == "" })
}

func (p *RelayProxy) complete(c *Config) error {
	key, err := secret("key", p.Key, p.KeyFile)
	if err != nil {
		return err
	}
	p.key = protocol.ProxyKey(key)
	switch {
	case key == "":
		return errors.New("no key; give key or key-file")
	case p.Mode != "" && p.Mode != "auto" && p.Mode != "manual":
		return fmt.Errorf("mode: %q is neither auto nor manual", p.Mode)
	case p.Mode == "manual" && c.Relay.Listen == "":
		return errors.New("mode: manual needs relay.listen, where FeatBit sends bootstraps to")
	case p.Mode != "manual" && c.FeatBit.URL == "":
		return errors.New("no featbit.url")
	}
	if err := p.key.Check(); err != nil {
		return err
	}
	// One connection serves all environments; these two are of single ones.
	if p.Lease != nil && *p.Lease || p.Poll != "" && p.Poll != "fallback" {
		return errors.New("lease and poll are not for a relay-proxy key")
	}
	d := c.Defaults
	d.Lease, d.Poll = nil, ""
	if err := p.inherit(d); err != nil {
		return err
	}
	switch {
	case p.Store == "":
		return errors.New("no store, and none in defaults")
	case p.Store != MemoryStore && !strings.Contains(p.Store, "{id}") && !strings.Contains(p.Store, "{env}"):
		return fmt.Errorf("store %s is one place for all environments; put {env} or {id} into it", redact(p.Store))
	}
	return nil
}

// inherit fills in what is not set.
func (s *Settings) inherit(d Settings) error {
	s.Store = cmp.Or(s.Store, d.Store)
	if s.Store == "memory://" {
		s.Store = MemoryStore
	}
	s.Reconcile = cmp.Or(s.Reconcile, d.Reconcile)
	s.Poll = cmp.Or(s.Poll, d.Poll, "fallback")
	switch s.Poll {
	case "fallback", "never", "always":
	default:
		return fmt.Errorf("poll: %q is none of fallback, never and always", s.Poll)
	}
	s.Lease = cmp.Or(s.Lease, d.Lease)
	s.History = cmp.Or(s.History, d.History)
	if s.History != nil && *s.History < 0 {
		return fmt.Errorf("history: %d is below zero", *s.History)
	}
	s.Guard.Off = s.Guard.Off || d.Guard.Off
	s.Guard.MaxRemoved = cmp.Or(s.Guard.MaxRemoved, d.Guard.MaxRemoved)
	s.Guard.Wait = cmp.Or(s.Guard.Wait, d.Guard.Wait)
	return nil
}

// locate returns the URL of an environment's store.
func locate(pattern, name, id string) string {
	escaped := url.QueryEscape(name)
	if _, query, ok := strings.Cut(pattern, "?"); !ok || !strings.Contains(query, "{env}") {
		escaped = strings.Map(func(r rune) rune {
			switch {
			case r == '/' || r == '\\' || r == 0:
				return '-'
			}
			return r
		}, name)
		escaped = url.PathEscape(escaped)
	}
	return strings.NewReplacer("{env}", escaped, "{id}", id).Replace(pattern)
}

// secret returns the secret that is given in one of two ways, or "".
func secret(what, text, file string) (protocol.Secret, error) {
	switch {
	case text != "" && file != "":
		return "", fmt.Errorf("%s and %s-file are both set", what, what)
	case file == "":
		return protocol.Secret(strings.TrimSpace(text)), nil
	}
	b, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("%s-file: %w", what, err)
	}
	if text = strings.TrimSpace(string(b)); text == "" {
		return "", fmt.Errorf("%s-file: %s is empty", what, file)
	}
	return protocol.Secret(text), nil
}

func redact(text string) string { return Redact(text) }

// Clone returns a copy that shares nothing that Complete or a Fleet changes.
func (c *Config) Clone() *Config {
	clone := *c
	clone.Environments = slices.Clone(c.Environments)
	if c.RelayProxy != nil {
		p := *c.RelayProxy
		clone.RelayProxy = &p
	}
	return &clone
}

// Summary says in a few words what the configuration is about.
func (c *Config) Summary() string {
	parts := []string{fmt.Sprintf("%d environments", len(c.Environments))}
	if len(c.Environments) == 1 {
		parts[0] = "1 environment"
	}
	if c.RelayProxy != nil {
		parts = append(parts, "those of a relay proxy")
	}
	if c.Relay.Listen != "" {
		parts = append(parts, "a relay on "+c.Relay.Listen)
	}
	return strings.Join(parts, ", ")
}
