package lint

import (
	"cmp"
	"time"

	"github.com/daypass-dev/daypass/policy"
)

// issuerRules are about how an issuer is configured.
func issuerRules() []Rule {
	return []Rule{
		{
			ID: "DP029", Name: "long-token-life", Severity: High, issuer: tokenLife,
			Attack:  "A token that leaked is good for as long as it lives; GitHub's key also signs runtime tokens that live for hours, and a Kubernetes mount may get one for a year.",
			Fix:     "set max_token_life: to 10m for GitHub and Buildkite and to 1h at most elsewhere, or waive this where jobs run longer and get one token only",
			Sources: []string{"kubernetes/kubernetes pkg/serviceaccount", "CVE-2025-30066"},
		},
		{
			ID: "DP030", Name: "replay-key", Severity: High, issuer: replayKey,
			Attack:  "Without a key that tells one token from another, a token that was used can be used again, or every token of an issuer without jti is refused.",
			Fix:     "use a profile whose replay_key is jti where the provider sends one, and signed_part where it does not; the broker scopes it by issuer",
			Sources: []string{"pypi/warehouse warehouse/oidc/services.py", "CVE-2025-6014"},
		},
	}
}

func tokenLife(i *issuerView) []hit {
	limit := cmp.Or(i.provider.Life, time.Hour)
	at := i.Node.At("max_token_life")
	switch {
	case i.MaxTokenLife <= 0:
		return []hit{hitAt(at, "issuer %q: the life of its tokens is not bounded", i.name)}
	case i.MaxTokenLife > limit:
		return []hit{hitAt(at, "issuer %q: tokens may live for %s, and %s is enough", i.name, policy.Short(i.MaxTokenLife), policy.Short(limit))}
	}
	return nil
}

func replayKey(i *issuerView) []hit {
	switch {
	case i.ReplayKey == "":
		return []hit{hitAt(i.Node, "issuer %q: nothing tells one of its tokens from another", i.name)}
	case i.ReplayKey != "jti" && i.ReplayKey != "signed_part":
		return []hit{hitAt(i.Node, "issuer %q: replay key %s is not one that the broker knows", i.name, quote(i.ReplayKey))}
	case i.ReplayKey == "jti" && len(i.provider.URLs) > 0 && !i.provider.JTI:
		return []hit{hitAt(i.Node, "issuer %q: jti is asked for, and %s sends none: each of its tokens is refused", i.name, i.provider.Title)}
	}
	return nil
}
