package main

import (
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint"
	"github.com/daypass-dev/daypass/broker/secretref"
	"github.com/daypass-dev/daypass/issuers"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

var (
	nameRE   = regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,62}\z`)
	brokerRE = regexp.MustCompile(`\A[a-z0-9][a-z0-9.-]{0,62}\z`)
)

// faults collects what is wrong, each at its place in the file.
type faults struct{ *strictyaml.Faults }

func (f faults) add(at *strictyaml.Node, format string, args ...any) {
	f.Add(at, at.Fault(format, args...))
}

// addIf is the row of a table: what is wrong if bad.
func (f faults) addIf(at *strictyaml.Node, bad bool, format string, args ...any) {
	if bad {
		f.add(at, format, args...)
	}
}

// check reports everything that is wrong with a completed configuration.
func (c *Config) check(all *strictyaml.Faults) {
	f := faults{all}
	c.checkSelf(f)
	c.checkListeners(f)
	c.checkState(f)
	c.checkIssuers(f)
	c.checkTargets(f)
	if c.Grants.Folder == "" {
		c.checkGrants(f)
	}
}

// at is where a top-level key stands, or the file where it is missing.
func (c *Config) at(path ...any) *strictyaml.Node { return c.Node.At(path...) }

func (c *Config) checkSelf(f faults) {
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		f.add(c.at("url"), "url is missing: the URL by which CI jobs reach this broker, such as https://daypass.example.com")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		f.add(c.at("url"), "%q is not an http or https URL", c.URL)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(c.URL, "/"):
		f.add(c.at("url"), "%q must have no query, fragment, user or trailing slash: it is an issuer's name", c.URL)
	case u.Scheme == "http" && !isLoopbackHost(u.Hostname()):
		f.add(c.at("url"), "%q is plain http; only loopback may be", c.URL)
	}
	if err := broker.CheckDeployment(c.Deployment); err != nil {
		f.add(c.at("deployment"), "%s", strings.TrimPrefix(err.Error(), "deployment "))
	}
	f.addIf(c.at("broker"), !brokerRE.MatchString(c.Broker),
		"%q is not a name of lower-case letters, digits, dots and dashes", c.Broker)
	f.addIf(c.at("limits", "exchanges_per_minute"), c.Limits.ExchangesPerMinute < 0, "is negative; 0 means no limit")
	f.addIf(c.at("limits", "live_leases"), c.Limits.LiveLeases < 0, "is negative; 0 means no limit")
	f.addIf(c.at("keys"), strings.HasPrefix(filepath.Base(c.Keys), "env:") || strings.HasPrefix(filepath.Base(c.Keys), "file:"),
		"is a secret reference; this version keeps the key ring in a folder")
}

// missingVariables names the environment variables that hold admin credentials
// and are not set. No process gets one later, so serving without would only
// move the fault to where a job sees it. Files are another matter: they come
// and go.
func (c *Config) missingVariables(p process) error {
	var all strictyaml.Faults
	f := faults{&all}
	look := func(at *strictyaml.Node, reference string) {
		ref, err := secretref.Parse(reference)
		if err != nil || ref.Scheme != secretref.Env {
			return
		}
		if value, there := p.env(ref.Name); !there || value == "" {
			f.add(at, "environment variable %s is not set", ref.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Targets)) {
		look(c.Targets[name].Node.At("admin"), c.Targets[name].Admin)
	}
	look(c.at("state", "password"), c.State.Redis.Password)
	look(c.at("state", "sentinel_password"), c.State.Redis.SentinelPassword)
	return all.Err()
}

func (c *Config) checkListeners(f faults) {
	loopback := checkListen(f, c.at("listen"), c.Listen)
	f.addIf(c.at("listen"), !loopback && c.TLS == nil && !c.BehindProxy,
		"%s is reachable from elsewhere: add tls: {cert, key}, or behind_proxy: true if a proxy ends TLS in front of it", c.Listen)
	f.addIf(c.at("tls"), c.TLS != nil && c.BehindProxy, "stands beside behind_proxy: true; keep one")
	if c.TLS != nil {
		f.addIf(c.at("tls", "cert"), !isFile(c.TLS.Cert), "cert: %q is not a file that can be read", c.TLS.Cert)
		f.addIf(c.at("tls", "key"), !isFile(c.TLS.Key), "key: %q is not a file that can be read", c.TLS.Key)
	}
	if !checkListen(f, c.at("admin", "listen"), c.Admin.Listen) {
		f.add(c.at("admin", "listen"), "%s is not a loopback address; reach it through a tunnel instead", c.Admin.Listen)
	}
}

// checkListen reports whether an address is a loopback one.
func checkListen(f faults, at *strictyaml.Node, listen string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		f.add(at, "%q is not host:port", listen)
		return true
	}
	return isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (c *Config) checkState(f faults) {
	if c.State.Embedded {
		return
	}
	r := c.State.Redis
	switch r.Mode {
	case "", "standalone":
		c.checkStandalone(f, r)
	case "sentinel":
		c.checkSentinel(f, r)
	default:
		f.add(c.at("state", "mode"), "%q is not supported; use standalone or sentinel", r.Mode)
	}
	if u, err := url.Parse(r.URL); err == nil {
		_, inline := u.User.Password()
		f.addIf(c.at("state"), inline, "holds a password; use {url: …, password: env:NAME} so that it stays out of the file")
	}
	f.addIf(c.at("state", "replicas"), r.Replicas < 0, "is negative")
	for key, ref := range map[string]string{"password": r.Password, "sentinel_password": r.SentinelPassword} {
		if ref == "" {
			continue
		}
		if _, err := secretref.Parse(ref); err != nil {
			f.add(c.at("state", key), "%v", err)
		}
	}
}

func (c *Config) checkStandalone(f faults, r RedisConfig) {
	u, err := url.Parse(r.URL)
	switch {
	case r.URL == "":
		f.add(c.at("state"), `state is missing: "embedded" for one broker, or a redis:// URL that all brokers share`)
	case err != nil || u.Host == "" || (u.Scheme != "redis" && u.Scheme != "rediss"):
		f.add(c.at("state"), `must be "embedded" or a redis:// or rediss:// URL`)
	}
	for key, given := range map[string]bool{"master": r.Master != "", "sentinels": len(r.Sentinels) > 0, "sentinel_password": r.SentinelPassword != ""} {
		f.addIf(c.at("state", key), given, "is for mode: sentinel, and mode is standalone")
	}
}

func (c *Config) checkSentinel(f faults, r RedisConfig) {
	if r.URL != "" {
		u, err := url.Parse(r.URL)
		f.addIf(c.at("state", "url"), err != nil || u.Host != "" || (u.Scheme != "redis" && u.Scheme != "rediss"),
			"must name no host, for the Sentinels say where the master is: redis:///0 or rediss://user@/0, or leave it out")
	}
	f.addIf(c.at("state", "master"), r.Master == "", "master is missing: the name that the Sentinels know the master by")
	f.addIf(c.at("state", "sentinels"), len(r.Sentinels) == 0, "sentinels is missing: a list of host:port")
	for i, addr := range r.Sentinels {
		host, port, err := net.SplitHostPort(addr)
		f.addIf(c.at("state", "sentinels", i), err != nil || host == "" || port == "", "%q is not host:port", addr)
	}
	f.addIf(c.at("state", "replicas"), r.Replicas == 0,
		"replicas must be at least 1 with sentinel, and at least half of all nodes: without it a master that was cut off goes on claiming")
}

func (c *Config) checkIssuers(f faults) {
	f.addIf(c.at("issuers"), len(c.Issuers) == 0, "issuers is missing: name at least one CI provider, such as github: {profile: github}")
	profiles, err := issuers.Profiles()
	if err != nil {
		f.add(c.at("issuers"), "%v", err)
		return
	}
	known := slices.Sorted(maps.Keys(profiles))
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		i := c.Issuers[name]
		if i.Node == nil {
			continue // it is not a mapping, and has its fault
		}
		f.addIf(i.Node, !nameRE.MatchString(name), "the name must be lower-case letters, digits and dashes")
		if _, ok := profiles[i.Profile]; !ok {
			f.add(i.Node.At("profile"), "%q is not a profile; there are %s", i.Profile, strings.Join(known, ", "))
		}
		f.addIf(i.Node.At("insecure"), i.Insecure && !c.development(),
			"is for development: it needs listen on a loopback address and a url that is not https")
		f.addIf(i.Node.At("jwks_file"), i.JWKSFile != "" && !isFile(i.JWKSFile), "%q is not a file that can be read", i.JWKSFile)
		f.addIf(i.Node.At("max_token_life"), i.MaxTokenLife < 0, "is negative")
	}
}

// development is where insecure issuers are allowed.
func (c *Config) development() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	return err == nil && isLoopbackHost(host) && !strings.HasPrefix(c.URL, "https:")
}

// kinds maps the kinds there are by name.
func kinds() map[string]broker.Kind {
	m := map[string]broker.Kind{}
	for _, k := range mint.Kinds() {
		m[k.Name] = k
	}
	return m
}

// takebacks are what the kinds say of giving back.
func takebacks() map[string]broker.Takeback {
	m := map[string]broker.Takeback{}
	for name, k := range kinds() {
		m[name] = k.Takeback
	}
	return m
}

func (c *Config) checkTargets(f faults) {
	kinds := kinds()
	for _, name := range slices.Sorted(maps.Keys(c.Targets)) {
		t := c.Targets[name]
		if t.Node == nil {
			continue // it is not a mapping, and has its fault
		}
		f.addIf(t.Node, !nameRE.MatchString(name), "the name must be lower-case letters, digits and dashes")
		k, ok := kinds[t.Kind]
		switch {
		case !ok:
			f.add(t.Node.At("kind"), "%q is not a kind; there are %s", t.Kind, strings.Join(kindNames(true), ", "))
		case !k.Targeted:
			f.add(t.Node.At("kind"), "%s needs no target; write the grant with kind: %s instead of target", t.Kind, t.Kind)
		}
		if _, taken := kinds[name]; taken {
			f.add(t.Node, "is the name of a kind; choose another")
		}
		if t.Admin == "" {
			f.add(t.Node, "admin is missing: where the admin credential comes from, such as env:%s_ADMIN_URL", strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
		} else if _, err := secretref.Parse(t.Admin); err != nil {
			f.add(t.Node.At("admin"), "%v", err)
		}
	}
}

func kindNames(targeted bool) []string {
	var names []string
	for _, k := range mint.Kinds() {
		if k.Targeted == targeted {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *Config) checkGrants(f faults) {
	f.addIf(c.at("grants"), len(c.Grants.Named) == 0, "grants is missing: name at least one thing that jobs can ask for")
	for _, name := range slices.Sorted(maps.Keys(c.Grants.Named)) {
		if g := c.Grants.Named[name]; g.Node != nil { // else it is not a mapping, and has its fault
			c.checkGrant(f, name, g)
		}
	}
}

func (c *Config) checkGrant(f faults, name string, g Grant) {
	at := g.Node
	f.addIf(at, !nameRE.MatchString(name), "the name must be lower-case letters, digits and dashes, at most 63")
	f.addIf(at.At("max_ttl"), at.Get("max_ttl") != nil && (g.MaxTTL < time.Second || g.MaxTTL > maxTTL), "must be between 1s and 24h")
	f.addIf(at.At("max_live"), g.MaxLive < 0, "is negative; 0 means no cap")
	f.addIf(at.At("access"), g.Access != "" && g.Access != string(broker.Read) && g.Access != string(broker.Write),
		"must be read or write")
	f.addIf(at.At("on_reuse"), g.OnReuse != "" && g.OnReuse != string(broker.OnReuseRevoke),
		"must be revoke, or be left out")
	kind, ok := c.kindOf(f, g)
	if !ok {
		return
	}
	for _, err := range each(kind.CheckGrant(c.brokerGrant(name, g))) {
		f.add(at.At("params"), "%v", err)
	}
}

// kindOf finds the kind of a grant, by its target or by its own word.
func (c *Config) kindOf(f faults, g Grant) (broker.Kind, bool) {
	kinds := kinds()
	if (g.Target == "") == (g.Kind == "") {
		f.add(g.Node, "needs either target (one of %s) or kind (one of %s)",
			orNone(slices.Sorted(maps.Keys(c.Targets))), strings.Join(kindNames(false), ", "))
		return broker.Kind{}, false
	}
	if g.Kind != "" {
		k, ok := kinds[g.Kind]
		if !ok || k.Targeted {
			f.add(g.Node.At("kind"), "%q is not a kind that needs no target; those are %s", g.Kind, strings.Join(kindNames(false), ", "))
			return broker.Kind{}, false
		}
		return k, true
	}
	t, ok := c.Targets[g.Target]
	if !ok {
		f.add(g.Node.At("target"), "%q is not configured; targets are %s", g.Target, orNone(slices.Sorted(maps.Keys(c.Targets))))
		return broker.Kind{}, false
	}
	f.addIf(g.Node.At("target"), t.Retired, "%q is retired: it only revokes; remove the grant", g.Target)
	k, ok := kinds[t.Kind]
	return k, ok
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// each takes a joined error apart.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
