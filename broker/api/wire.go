package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/daypass-dev/daypass/broker"
)

// The types of this file are the answers of the native API, member for member.
// clients/testdata/wire holds the same shapes as vectors; openapi.yaml
// describes them.

type sessionJSON struct {
	Token   string `json:"token,omitempty"` // in clear: an answer is where secrets leave
	Expires string `json:"expires_at"`
}

type answerJSON struct {
	RequestID   string           `json:"request_id"`
	Session     *sessionJSON     `json:"session,omitempty"`
	Credentials []credentialJSON `json:"credentials"`
}

// dryRunJSON has an empty list of credentials as well, so that a client that
// reads every answer alike finds that it got none.
type dryRunJSON struct {
	RequestID   string           `json:"request_id"`
	DryRun      bool             `json:"dry_run"`
	Grants      []permitJSON     `json:"grants"`
	Credentials []credentialJSON `json:"credentials"`
}

// sealedJSON is an answer that only its client can open: HPKE, in base64url
// without padding.
type sealedJSON struct {
	RequestID string         `json:"request_id"`
	Sealed    ciphertextJSON `json:"sealed"`
}

type ciphertextJSON struct {
	Enc        string `json:"enc"`
	Ciphertext string `json:"ciphertext"`
}

type permitJSON struct {
	Name string `json:"name"`
	Rule string `json:"rule"`
	TTL  string `json:"ttl"`
	Kind string `json:"kind"`

	Takeback broker.Takeback `json:"takeback,omitempty"` // absent: the kind does not say beforehand
}

type credentialJSON struct {
	Grant     string            `json:"grant"`
	Kind      string            `json:"kind"`
	LeaseID   broker.LeaseID    `json:"lease_id"`
	Issued    string            `json:"issued_at"`
	Expires   string            `json:"expires_at"`
	Takeback  broker.Takeback   `json:"takeback"`
	Fields    map[string]string `json:"fields"`
	Env       map[string]string `json:"env"`
	Sensitive []string          `json:"sensitive"` // names in fields and env whose values a client must mask
}

type whoamiJSON struct {
	RequestID string `json:"request_id"`
	Session   struct {
		Expires string `json:"expires_at"`
		Closing bool   `json:"closing"`
	} `json:"session"`
	Identity identityJSON `json:"identity"`
	Leases   []leaseJSON  `json:"leases"`
}

type identityJSON struct {
	Issuer       string `json:"issuer"`
	Subject      string `json:"subject"`
	Repository   string `json:"repository"`
	RepositoryID string `json:"repository_id"`
	Ref          string `json:"ref"`
	Environment  string `json:"environment"`
	Event        string `json:"event"`
	Run          string `json:"run"`
	RunURL       string `json:"run_url"`
}

type leaseJSON struct {
	LeaseID  broker.LeaseID    `json:"lease_id"`
	Grant    string            `json:"grant"`
	Kind     string            `json:"kind"`
	State    broker.LeaseState `json:"state"`
	Expires  string            `json:"expires_at"`
	Takeback broker.Takeback   `json:"takeback"`
}

type outcomesJSON struct {
	RequestID string        `json:"request_id"`
	Leases    []outcomeJSON `json:"leases"`
}

type outcomeJSON struct {
	LeaseID broker.LeaseID `json:"lease_id"`
	Grant   string         `json:"grant"`
	State   string         `json:"state"`
	Expires string         `json:"expires_at"`
}

func showTime(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }

// showTTL writes a duration as people do: 15m, not 15m0s.
func showTTL(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func showAnswer(id string, a broker.Answer) answerJSON {
	out := answerJSON{RequestID: id, Credentials: []credentialJSON{}}
	if !a.Token.IsZero() {
		s := showSession(a)
		out.Session = &s
	}
	for _, g := range a.Granted {
		out.Credentials = append(out.Credentials, showCredential(g))
	}
	return out
}

// EncodeAnswer is the plaintext of a sealed answer: what the client would read
// had it not asked for a sealed one.
func EncodeAnswer(a broker.Answer) ([]byte, error) {
	return json.Marshal(showAnswer(a.Request, a))
}

func showSealed(id string, s broker.Sealed) sealedJSON {
	return sealedJSON{RequestID: id, Sealed: showCiphertext(s)}
}

func showCiphertext(s broker.Sealed) ciphertextJSON {
	return ciphertextJSON{Enc: base64.RawURLEncoding.EncodeToString(s.Enc), Ciphertext: base64.RawURLEncoding.EncodeToString(s.Ciphertext)}
}

func showDryRun(id string, a broker.Answer) dryRunJSON {
	out := dryRunJSON{RequestID: id, DryRun: true, Grants: []permitJSON{}, Credentials: []credentialJSON{}}
	for _, p := range a.Decision.Permits {
		out.Grants = append(out.Grants, permitJSON{Name: p.Grant.Name, Rule: p.Rule, TTL: showTTL(p.TTL), Kind: p.Grant.Kind, Takeback: p.Takeback})
	}
	return out
}

func showSession(a broker.Answer) sessionJSON {
	return sessionJSON{Token: a.Token.Reveal(), Expires: showTime(a.Session.Expires)}
}

func showCredential(g broker.Granted) credentialJSON {
	out := credentialJSON{
		Grant: g.Lease.Grant.Name, Kind: g.Lease.Grant.Kind, LeaseID: g.Lease.ID,
		Issued: showTime(g.Lease.Opened), Expires: showTime(g.Lease.NotAfter), Takeback: g.Credential.Takeback,
		Fields: map[string]string{}, Env: map[string]string{}, Sensitive: []string{},
	}
	for _, f := range g.Credential.Fields {
		out.Fields[f.Name] = f.Value.Reveal()
		for _, name := range f.Env {
			out.Env[name] = f.Value.Reveal()
		}
		if !f.Public {
			out.Sensitive = append(append(out.Sensitive, f.Name), f.Env...)
		}
	}
	return out
}

func showWhoami(id string, s broker.Session, leases []broker.Lease) whoamiJSON {
	job := s.For.Job
	out := whoamiJSON{RequestID: id, Leases: []leaseJSON{}, Identity: identityJSON{
		Issuer: s.For.Issuer, Subject: s.For.Subject, Repository: job.Repository, RepositoryID: job.RepositoryID,
		Ref: job.Ref, Environment: job.Environment, Event: job.Event, Run: job.Run, RunURL: job.RunURL,
	}}
	out.Session.Expires, out.Session.Closing = showTime(s.Expires), s.Ended() != nil
	for _, l := range leases {
		out.Leases = append(out.Leases, leaseJSON{LeaseID: l.ID, Grant: l.Grant.Name, Kind: l.Grant.Kind,
			State: l.State, Expires: showTime(l.NotAfter), Takeback: l.Takeback})
	}
	return out
}

func showOutcomes(id string, outcomes ...broker.Outcome) outcomesJSON {
	out := outcomesJSON{RequestID: id, Leases: []outcomeJSON{}}
	for _, o := range outcomes {
		out.Leases = append(out.Leases, outcomeJSON{LeaseID: o.Lease.ID, Grant: o.Lease.Grant.Name,
			State: o.State, Expires: showTime(o.Lease.NotAfter)})
	}
	return out
}

// reply is an answer ready to be written.
type reply struct {
	status int
	media  string
	cache  string // default: no-store
	body   []byte
}

func replyJSON(v any) (reply, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return reply{}, fmt.Errorf("encode answer: %w", err)
	}
	return reply{status: http.StatusOK, media: mediaJSON, body: b}, nil
}
