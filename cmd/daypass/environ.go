package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	daypass "github.com/daypass-dev/daypass/clients/go"
	"github.com/daypass-dev/daypass/cmd/daypass/internal/mask"
)

// variables merges the environment variables of credentials, each under its
// grant's prefix. It refuses two of one name, and names that would change how
// programs run rather than what they log in with.
func variables(grants []daypass.Grant, credentials []daypass.Credential) (map[string]string, error) {
	vars, from := map[string]string{}, map[string]string{}
	for i, c := range credentials {
		for name, value := range c.Env {
			name = grants[i].Prefix + name
			if reserved(name) {
				return nil, fmt.Errorf("%s would set %s, which a credential must not", c.Grant, name)
			}
			if other, taken := from[name]; taken {
				return nil, fmt.Errorf("%s and %s both set %s: give one a prefix, as in SECOND_=%s", other, c.Grant, name, c.Grant)
			}
			vars[name], from[name] = value.Reveal(), c.Grant
		}
	}
	return vars, nil
}

// reserved is a list of what is known to run code, to send traffic elsewhere or
// to steer a CI runner. It cannot be complete: a broker is trusted not to look
// for what is missing.
func reserved(name string) bool {
	switch name = strings.ToUpper(name); name { // http_proxy counts as well
	case "DAYPASS_JWT", "GITHUB_TOKEN": // credentials
		return false
	case "PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "ZDOTDIR", "PROMPT_COMMAND", "PS4", "EDITOR", "VISUAL", "PAGER", "BROWSER",
		"NODE_OPTIONS", "NODE_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PERL5OPT", "PERL5LIB", "PERL5DB", "RUBYOPT", "RUBYLIB",
		"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "MAVEN_OPTS", "GRADLE_OPTS", "GOFLAGS", "RUSTC_WRAPPER", "MAKEFLAGS",
		"GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PROXY_COMMAND", "GIT_PAGER", "GIT_EDITOR", "GIT_TEMPLATE_DIR",
		"PSQLRC", "PSQL_PAGER", "PSQL_EDITOR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "GCONV_PATH", "GLIBC_TUNABLES":
		return true
	}
	for _, prefix := range []string{"LD_", "DYLD_", "DAYPASS_", "ACTIONS_", "GITHUB_", "RUNNER_", "BASH_FUNC_", "GIT_CONFIG", "NPM_CONFIG_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// childEnv is the environment of a command: base with vars over it, and without
// what would let the command ask for credentials itself.
func childEnv(base []string, vars map[string]string, preserve bool) []string {
	env := make([]string, 0, len(base)+len(vars))
	for _, kv := range base {
		name, _, _ := strings.Cut(kv, "=")
		if _, replaced := vars[name]; !replaced && (preserve || !asksForMore(name)) {
			env = append(env, kv)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

func asksForMore(name string) bool {
	for _, prefix := range []string{"DAYPASS_ID_TOKEN", "DAYPASS_SESSION", "ACTIONS_ID_TOKEN_REQUEST_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// addMasks tells GitHub's runner what to mask, before anything else is printed.
// It goes to stderr: the runner reads commands from both streams, and stdout is
// often captured into a variable or a file, where the secret would then be. A
// stderr that is a file is not read by the runner, and gets nothing.
func (a *app) addMasks(secrets []string) error {
	if a.getenv("GITHUB_ACTIONS") != "true" {
		return nil
	}
	if f, ok := a.Stderr.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return nil
		}
	}
	var b strings.Builder
	for _, s := range secrets {
		if len(s) < mask.MinLength {
			continue
		}
		for _, v := range append([]string{s}, mask.Lines(s)...) {
			fmt.Fprintf(&b, "::add-mask::%s\n", commandData.Replace(v))
		}
	}
	if _, err := io.WriteString(a.Stderr, b.String()); err != nil {
		return fmt.Errorf("tell the runner what to mask: %w", err)
	}
	return nil
}

// commandData escapes the data of a workflow command.
var commandData = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
