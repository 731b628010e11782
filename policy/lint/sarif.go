package lint

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// The parts of SARIF 2.1.0 that are written.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version,omitempty"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string         `json:"id"`
		Name             string         `json:"name"`
		ShortDescription sarifText      `json:"shortDescription"`
		FullDescription  sarifText      `json:"fullDescription"`
		Help             sarifText      `json:"help"`
		Configuration    sarifConfig    `json:"defaultConfiguration"`
		Properties       map[string]any `json:"properties"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations,omitempty"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

const home = "https://github.com/daypass-dev/daypass"

// WriteSARIF writes SARIF 2.1.0 (OASIS), for code scanning. version is that of
// this program. Waived findings are there, suppressed.
func (f Findings) WriteSARIF(w io.Writer, version string) error {
	rules := Rules()
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "daypassd policy lint", Version: version, InformationURI: home + "/blob/main/docs/policy-lint.md"}},
		ColumnKind: "unicodeCodePoints",
		Results:    []sarifResult{}, // null would say that nothing was looked for
	}
	for _, r := range rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, r.sarif())
	}
	for _, one := range f {
		i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == one.ID })
		run.Results = append(run.Results, one.sarif(i))
	}
	return writeJSON(w, sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

func (s Severity) sarifLevel() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// score is the severity as code scanning sorts by it, from 0 to 10.
func (s Severity) score() string {
	return map[Severity]string{Critical: "9.5", High: "8.0", Warning: "4.0"}[s]
}

func (r *Rule) sarif() sarifRule {
	return sarifRule{
		ID: r.ID, Name: pascal(r.Name), ShortDescription: sarifText{strings.ReplaceAll(r.Name, "-", " ")}, FullDescription: sarifText{r.Attack},
		Help: sarifText{"Instead: " + r.Fix + "."}, Configuration: sarifConfig{r.Severity.sarifLevel()},
		Properties: map[string]any{"tags": []string{"security"}, "security-severity": r.Severity.score()},
	}
}

func pascal(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "-") {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

func (f *Finding) sarif(rule int) sarifResult {
	text := f.Message + ". Instead: " + f.Fix + "."
	r := sarifResult{RuleID: f.ID, RuleIndex: rule, Level: f.Severity.sarifLevel(), Message: sarifText{text}, Fingerprints: f.fingerprint()}
	if f.File != "" {
		l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{fileURI(f.File)}, Region: sarifRegion{orOne(f.Line), orOne(f.Col)}}}
		if f.Rule != "" {
			l.Logical = []sarifLogical{{FullyQualifiedName: f.Rule, Kind: "object"}}
		}
		r.Locations = []sarifLocation{l}
	}
	if f.Waived != nil {
		r.Suppressions = []sarifSuppression{{Kind: "inSource", Justification: f.Waived.Reason + " (until " + f.Waived.Until.String() + ")"}}
	}
	return r
}

// fingerprint stays the same when lines move.
func (f *Finding) fingerprint() map[string]string {
	sum := sha256.Sum256([]byte(strings.Join([]string{f.ID, f.File, f.Rule, f.Message}, "\x00")))
	return map[string]string{"daypassFinding/v1": hex.EncodeToString(sum[:16])}
}

// fileURI is a relative reference where the name is relative.
func fileURI(name string) string {
	u := url.URL{Path: filepath.ToSlash(name)}
	if filepath.IsAbs(name) {
		u.Scheme = "file"
	}
	return cmp.Or(u.String(), ".")
}
