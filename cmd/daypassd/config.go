package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

// Config is daypass.yaml. Unknown keys, duplicate keys, anchors and aliases are
// refused. Relative paths are relative to the file's own folder.
type Config struct {
	URL         string            `yaml:"url"`          // our own issuer URL, as CI jobs and clouds reach us
	Audience    string            `yaml:"audience"`     // what CI tokens must name; default: url
	Deployment  string            `yaml:"deployment"`   // four lower-case letters or digits; marks what is ours in a target
	Broker      string            `yaml:"broker"`       // this broker's name in the journal; default: the host name
	Listen      string            `yaml:"listen"`       // default 127.0.0.1:8080; elsewhere than loopback needs tls or behind_proxy
	TLS         *TLSConfig        `yaml:"tls"`          // certificate and key files, read again when they change
	BehindProxy bool              `yaml:"behind_proxy"` // a proxy that ends TLS stands in front
	Admin       AdminConfig       `yaml:"admin"`        // metrics and leases, for operators
	State       StateConfig       `yaml:"state"`        // "embedded", a redis:// URL, or {url, password, replicas, …}
	DataDir     string            `yaml:"data_dir"`     // journal/, versions/, admin.token; default ./data
	Keys        string            `yaml:"keys"`         // key ring folder; default data_dir/keys. Brokers that share a Redis share it
	Policies    string            `yaml:"policies"`     // folder of policy files
	Issuers     map[string]Issuer `yaml:"issuers"`      // CI providers we trust
	Targets     map[string]Target `yaml:"targets"`      // where credentials are made
	Grants      GrantsConfig      `yaml:"grants"`       // what jobs can ask for: a map, or a folder of files with one
	Limits      LimitsConfig      `yaml:"limits"`       // per repository

	Node *strictyaml.Node `yaml:",node"`
	dir  string           // what relative paths are relative to

	revoking broker.Revoking // not of the file: serve --pause-revocation
}

// TLSConfig names PEM files.
type TLSConfig struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// AdminConfig is the operators' listener.
type AdminConfig struct {
	Listen string `yaml:"listen"` // loopback; default 127.0.0.1:8081
}

// Issuer is one CI provider.
type Issuer struct {
	Profile      string        `yaml:"profile,required"` // a folder under issuers/profiles
	URL          string        `yaml:"url"`              // for self-hosted and enterprise issuers; default: the profile's
	JWKSFile     string        `yaml:"jwks_file"`        // keys of an issuer that cannot be reached
	JWKSHosts    []string      `yaml:"jwks_hosts"`       // hosts beside the issuer's own that its keys may come from
	WebURL       string        `yaml:"web_url"`          // where people look at its jobs; default: from profile and url
	CAFile       string        `yaml:"ca_file"`          // PEM certificates that replace the system's roots for it
	MaxTokenLife time.Duration `yaml:"max_token_life"`   // default: the profile's
	AllowPrivate bool          `yaml:"allow_private"`    // it lives on a private address
	Insecure     bool          `yaml:"insecure"`         // plain http and loopback too: development and tests
	Version      string        `yaml:"version"`          // of the provider's own software, where a rule of lint asks for it

	Waive []policy.Waiver `yaml:"waive"` // findings of policy lint at this issuer that are meant

	Node *strictyaml.Node `yaml:",node"`
}

// Target is where credentials are made.
type Target struct {
	Kind    string          `yaml:"kind,required"`
	Admin   string          `yaml:"admin"`   // reference of the admin credential: env:NAME or file:PATH
	Retired bool            `yaml:"retired"` // issue nothing, keep revoking
	Params  json.RawMessage `yaml:"params"`  // the kind's own settings of the target

	Node *strictyaml.Node `yaml:",node"`
}

// Grant is a thing jobs can ask for.
type Grant struct {
	Target  string            `yaml:"target"`
	Kind    string            `yaml:"kind"`             // instead of target, for kinds that need none
	MaxTTL  time.Duration     `yaml:"max_ttl,required"` // between 1s and 24h
	MaxLive int               `yaml:"max_live"`         // 0: no cap
	Access  string            `yaml:"access"`           // read or write; default write
	OnReuse string            `yaml:"on_reuse"`         // revoke: take back what a token bought that somebody else offers again
	Labels  map[string]string `yaml:"labels"`
	Params  json.RawMessage   `yaml:"params"` // the kind's own settings

	Node *strictyaml.Node `yaml:",node"`
}

// LimitsConfig keeps one repository from taking what others need. 0: no limit.
type LimitsConfig struct {
	ExchangesPerMinute int `yaml:"exchanges_per_minute"`
	LiveLeases         int `yaml:"live_leases"`
}

// GrantsConfig is a map of grants, or a folder of files that hold one under
// the key grants.
type GrantsConfig struct {
	Folder string           // empty where they stand in the configuration
	Named  map[string]Grant // of a folder once [material] has parsed them
}

// DecodeYAML reads either form.
func (g *GrantsConfig) DecodeYAML(n *strictyaml.Node) error {
	if n.Kind == strictyaml.Text {
		return n.Decode(&g.Folder)
	}
	return n.Decode(&g.Named)
}

// StateConfig says where leases, sessions and used tokens are kept.
type StateConfig struct {
	Embedded bool
	Redis    RedisConfig
}

// RedisConfig is the long form of state.
type RedisConfig struct {
	URL                 string   `yaml:"url"`                   // redis:// or rediss://; with sentinel it names no host, such as rediss://user@/0, and may be missing
	Mode                string   `yaml:"mode"`                  // standalone, the default, or sentinel
	Master              string   `yaml:"master"`                // sentinel: the name that the Sentinels know the master by
	Sentinels           []string `yaml:"sentinels"`             // sentinel: host:port of each
	SentinelPassword    string   `yaml:"sentinel_password"`     // sentinel: a reference
	Password            string   `yaml:"password"`              // a reference
	Replicas            int      `yaml:"replicas"`              // that acknowledge each claim: at least half of all nodes, rounded down
	UnsafeNoPersistence bool     `yaml:"unsafe_no_persistence"` // Redis keeps nothing on disk; restarts make tokens stale
}

// DecodeYAML reads the word embedded, a URL, or the long form.
func (s *StateConfig) DecodeYAML(n *strictyaml.Node) error {
	switch {
	case n.Kind == strictyaml.Text && n.Text == "embedded":
		s.Embedded = true
		return nil
	case n.Kind == strictyaml.Text:
		s.Redis.URL = n.Text
		return nil
	}
	return n.Decode(&s.Redis)
}

// loadConfig reads, completes and checks a configuration; what stands in folders
// that it names is read by [gather]. All faults are reported at once, in the
// order of the file.
func loadConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return parseConfig(path, text)
}

func parseConfig(path string, text []byte) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c := &Config{dir: filepath.Dir(abs)}
	var faults strictyaml.Faults
	if err := strictyaml.Decode(path, text, c); err != nil {
		if c.Node == nil { // it is not YAML at all
			return nil, err
		}
		faults.Add(c.Node, err)
	}
	c.complete()
	c.check(&faults)
	return c, faults.Err()
}

// complete fills in the defaults.
func (c *Config) complete() {
	c.Audience = cmp.Or(c.Audience, c.URL)
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:8080")
	c.Admin.Listen = cmp.Or(c.Admin.Listen, "127.0.0.1:8081")
	c.DataDir = c.path(cmp.Or(c.DataDir, "data"))
	c.Keys = c.path(cmp.Or(c.Keys, filepath.Join(c.DataDir, "keys")))
	c.Policies = c.path(cmp.Or(c.Policies, "policies"))
	c.Grants.Folder = c.path(c.Grants.Folder)
	if c.Broker == "" {
		if host, err := os.Hostname(); err == nil {
			c.Broker = strings.ToLower(host)
		}
	}
	for name, i := range c.Issuers {
		i.JWKSFile, i.CAFile = c.path(i.JWKSFile), c.path(i.CAFile)
		c.Issuers[name] = i
	}
	if c.TLS != nil {
		c.TLS.Cert, c.TLS.Key = c.path(c.TLS.Cert), c.path(c.TLS.Key)
	}
}

// needsRestart names the keys that differ from those we run with and that a
// reload does not take up.
func (c *Config) needsRestart(fresh *Config) []string {
	var keys []string
	for _, row := range []struct {
		key      string
		was, now any
	}{
		{"url", c.URL, fresh.URL}, {"audience", c.Audience, fresh.Audience},
		{"deployment", c.Deployment, fresh.Deployment}, {"broker", c.Broker, fresh.Broker},
		{"listen", c.Listen, fresh.Listen}, {"tls", c.TLS, fresh.TLS}, {"behind_proxy", c.BehindProxy, fresh.BehindProxy},
		{"admin", c.Admin, fresh.Admin}, {"state", c.State, fresh.State},
		{"data_dir", c.DataDir, fresh.DataDir}, {"keys", c.Keys, fresh.Keys},
		{"issuers", bare(c.Issuers, bareIssuer), bare(fresh.Issuers, bareIssuer)},
		{"targets", bare(c.Targets, bareTarget), bare(fresh.Targets, bareTarget)},
		{"limits", c.Limits, fresh.Limits},
	} {
		if !reflect.DeepEqual(row.was, row.now) {
			keys = append(keys, row.key)
		}
	}
	return keys
}

// bare copies a section of the configuration without where it stands in the
// file.
func bare[V any](section map[string]V, of func(V) V) map[string]V {
	all := map[string]V{}
	for name, v := range section {
		all[name] = of(v)
	}
	return all
}

// bareIssuer leaves out what lint alone looks at as well: it is taken up without
// a restart.
func bareIssuer(i Issuer) Issuer {
	i.Node, i.Version, i.Waive = nil, "", nil
	return i
}

func bareTarget(t Target) Target {
	t.Node = nil
	return t
}

// path makes a path of the configuration absolute.
func (c *Config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// maxTTL bounds max_ttl: what is to live longer than a day is not a CI
// credential.
const maxTTL = 24 * time.Hour
