package lint

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
)

//go:embed preface.md
var preface string

// Markdown is docs/policy-lint.md: what lint looks for, from the rules
// themselves.
func Markdown() (string, error) {
	known, err := readProviders()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(preface)
	b.WriteString("\n## The rules\n\n| id | name | severity |\n|---|---|---|\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", r.ID, anchor(r), r.Name, r.Severity)
	}
	for _, r := range Rules() {
		b.WriteString(r.markdown())
	}
	b.WriteString("\n## Providers\n\nWhat lint knows of, by the name of the profile, or by the issuer's URL where the profile has another name:\n\n")
	b.WriteString("| profile | provider | signs for everybody | ids of the owner |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(known)) {
		p := known[name]
		shared := "no"
		if p.Shared {
			shared = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", name, p.Title, shared, strings.Join(p.OwnerIDs, "`, `"))
	}
	return b.String(), nil
}

func anchor(r Rule) string { return strings.ToLower(r.ID) + "-" + r.Name }

func (r *Rule) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s %s\n\n**%s.** %s\n\nInstead: %s.\n", r.ID, r.Name, strings.ToUpper(string(r.Severity[:1]))+string(r.Severity[1:]), r.Attack, r.Fix)
	if r.MayWaive != "" {
		fmt.Fprintf(&b, "\nIt may be waived %s.\n", r.MayWaive)
	}
	if len(r.Sources) > 0 {
		fmt.Fprintf(&b, "\nPublished in: %s.\n", strings.Join(r.Sources, "; "))
	}
	return b.String()
}
