package issuers

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	defaultLeeway = time.Minute
	maxLeeway     = 2 * time.Minute
	maxLife       = 24 * time.Hour
)

// Options are what a [Set] is made of.
type Options struct {
	Issuers []Config // at least one
	// Audience is what tokens must name, exactly and alone.
	Audience string
	// URL is our own issuer URL, which is never one of the Issuers: what we
	// sign ourselves must not buy anything from us.
	URL string
	// Leeway is for clocks that differ, in iat, nbf and exp; 0 means one
	// minute, and two are the most.
	Leeway time.Duration
	// CacheDir is an existing folder where last good key sets survive a
	// restart; empty: they do not.
	CacheDir string
	Log      *slog.Logger     // default: nothing is logged
	Now      func() time.Time // default: time.Now
}

// Config is one issuer as an operator configures it.
type Config struct {
	Name    string // what policy calls it
	Profile string // a provider of [Profiles]
	// URL is the issuer's exact URL; empty: the profile's.
	URL string
	// WebURL is where people look at its jobs; empty: from profile and URL.
	WebURL string
	// JWKSFile holds the keys of an issuer that cannot be reached. It is read
	// again every few seconds, and nobody is dialled.
	JWKSFile string
	// JWKSHosts are hosts (host or host:port) beside the issuer's own that its
	// keys may come from.
	JWKSHosts []string
	// CAFile holds PEM certificates that replace the system's roots.
	CAFile string
	// MaxTokenLife is the longest exp-iat accepted; 0: the profile's.
	MaxTokenLife time.Duration
	// AllowPrivate lets the issuer live on a private address.
	AllowPrivate bool
	// Insecure lets it live on loopback and speak plain http: development
	// and tests.
	Insecure bool
}

// nameRE is what issuers may be called: it goes into metrics, names and paths.
var nameRE = regexp.MustCompile(`\A[a-z0-9][a-z0-9-]{0,31}\z`)

// faults reports all that is wrong, by field.
func (o Options) faults(profiles map[string]Profile) error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(field+": "+format, args...))
	}
	if len(o.Issuers) == 0 {
		fault("issuers", "at least one is needed")
	}
	if why := badAudience(o.Audience); why != "" {
		fault("audience", "%s", why)
	}
	if o.Leeway < 0 || o.Leeway > maxLeeway {
		fault("leeway", "must be between 0 and %s", maxLeeway)
	}
	names, urls := map[string]bool{}, map[string]string{}
	for _, c := range o.Issuers {
		p, known := profiles[c.Profile]
		at := "issuers." + c.Name
		if !nameRE.MatchString(c.Name) {
			fault(fmt.Sprintf("issuers.%q", c.Name), "a name is up to 32 of a-z, 0-9 and -")
		}
		if names[c.Name] {
			fault(at, "is there twice")
		}
		names[c.Name] = true
		if !known {
			fault(at+".profile", "%q is not one of %s", c.Profile, strings.Join(slices.Sorted(maps.Keys(profiles)), ", "))
			continue
		}
		c.URL = cmp.Or(c.URL, p.URL)
		if c.URL == o.URL {
			fault(at+".url", "is our own: what this broker signs must not buy anything from it")
		}
		if other, taken := urls[c.URL]; taken {
			fault(at+".url", "is that of issuers.%s: a token would be of both", other)
		}
		urls[c.URL] = c.Name
		faults = append(faults, c.faults(at)...)
	}
	return errors.Join(faults...)
}

// faults reports what is wrong with one issuer. c.URL is filled in.
func (c Config) faults(at string) []error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf(at+"."+field+": "+format, args...))
	}
	if why := badURL(c.URL, c.Insecure); why != "" {
		fault("url", "%s", why)
	}
	if c.WebURL != "" {
		if why := badURL(c.WebURL, c.Insecure); why != "" {
			fault("web_url", "%s", why)
		}
	}
	for _, host := range c.JWKSHosts {
		if u, err := url.Parse("https://" + host); err != nil || host == "" || u.Host != host {
			fault("jwks_hosts", "%q is not a host or host:port", host)
		}
	}
	if c.MaxTokenLife < 0 || c.MaxTokenLife > maxLife {
		fault("max_token_life", "must be above 0 and at most %s", maxLife)
	}
	return faults
}

// badURL says why a URL cannot name an issuer. Names compare byte for byte, so
// there is one way to write each.
func badURL(raw string, insecure bool) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return "is not a URL"
	case u.Scheme == "http" && insecure:
	case u.Scheme != "https":
		return "must be https"
	}
	switch {
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		return "must have no user, query or fragment"
	case strings.HasSuffix(raw, "/"):
		return "must have no slash at its end"
	case u.Host != strings.ToLower(u.Host) || u.String() != raw:
		return "must be in its plain form, with the host in lower case"
	}
	return ""
}

// badAudience says why an audience does not keep other services' tokens out.
func badAudience(audience string) string {
	if audience == "" {
		return "is missing: without one, tokens made for other services would be taken"
	}
	if strings.ContainsFunc(audience, func(r rune) bool { return r <= ' ' || r > '~' }) || len(audience) > maxWord {
		return "must be up to 256 printable ASCII characters without spaces"
	}
	switch strings.ToLower(audience) {
	case "sts.amazonaws.com", "api://azureadtokenexchange", "sigstore", "pypi", "https://github.com", "https://gitlab.com":
		return "is that of another service: whoever gets its tokens could use them here"
	}
	if strings.HasPrefix(strings.ToLower(audience), "https://github.com/") {
		return "is what GitHub gives every job that names none"
	}
	return ""
}

// web returns where people look at an issuer's jobs. c.URL is filled in.
func (c Config) web(p Profile) string {
	if c.WebURL == "" && p.WebURL != "" && sameHost(c.URL, p.URL) {
		return p.WebURL
	}
	return cmp.Or(c.WebURL, strings.TrimSuffix(c.URL, p.URLSuffix))
}

// sameHost reports whether an issuer URL is on the host of the profile's own.
// An enterprise's URL there is signed for by the same keys, and stays shared.
func sameHost(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	return errX == nil && errY == nil && x.Host == y.Host
}
