//go:build unix

package npm

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// real is a folder whose lock pins a package that a registry has.
const real = "../../../issuers/testdata/jose"

const noPackages = `{"name": "test", "lockfileVersion": 3, "packages": {"": {"name": "test"}}}`

// folder writes the files of a program, with a lock that pins nothing unless
// they say otherwise.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"package.json": `{"name": "test", "type": "module"}`, "package-lock.json": noPackages}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start runs main.mjs, which has answer to compute an answer to q with.
func start(t *testing.T, answer string) *Program {
	t.Helper()
	p, err := Start(t.Context(), folder(t, map[string]string{"main.mjs": `
		import { createInterface } from 'node:readline'
		for await (const line of createInterface({ input: process.stdin })) {
			const q = JSON.parse(line)
			console.log(` + answer + `)
		}`}), "main.mjs")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closed(t *testing.T, p *Program) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder is left: %v", err)
	}
}

func TestEachQuestionGetsItsAnswer(t *testing.T) {
	p := start(t, `JSON.stringify({ back: q.text })`)
	for _, text := range []string{"a", "", "two\nlines\u2028or\u2029three", "é\"\\", strings.Repeat("long ", 1<<16)} {
		var a struct{ Back string }
		if err := p.Ask(map[string]string{"text": text}, &a); err != nil {
			t.Fatal(err)
		}
		if a.Back != text {
			t.Errorf("asked %.40q, answered %.40q", text, a.Back)
		}
	}
	closed(t, p)
}

func TestAProgramThatFailsIsAnErrorWithItsLastWords(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"it throws":           {`(() => { throw new Error('last words') })()`, "last words"},
		"it ends":             {`process.exit(3)`, "gives no answer"},
		"it answers no JSON":  {`'certainly'`, "answers oddly"},
		"it answers too much": {`JSON.stringify({ back: 'a', more: 1 })`, "more"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, c.answer)
			var a struct{ Back string }
			if err := p.Ask(map[string]string{}, &a); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q: %v", c.want, err)
			}
			if err := p.Ask(map[string]string{}, &a); err == nil {
				t.Error("it was asked again, and answered")
			}
			if err := p.Close(); err == nil {
				t.Error("it is closed as if nothing had happened")
			}
		})
	}
}

func TestWhatTheLockPinsIsInstalledBesideNoSource(t *testing.T) {
	before, err := os.ReadDir(real)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{
		"package.json": read(t, filepath.Join(real, "package.json")), "package-lock.json": read(t, filepath.Join(real, "package-lock.json")),
		"main.mjs": `import { jwtVerify } from 'jose'; console.log(JSON.stringify(typeof jwtVerify))`,
	})
	p, err := Start(t.Context(), dir, "main.mjs")
	if err != nil {
		t.Fatal(err)
	}
	var kind string
	if err := p.Ask("what is it?", &kind); err != nil || kind != "function" {
		t.Errorf("%q, %v", kind, err)
	}
	closed(t, p)
	for _, d := range []string{real, dir} {
		if _, err := os.Stat(filepath.Join(d, "node_modules")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something was installed in %s: %v", d, err)
		}
	}
	if after, err := os.ReadDir(real); err != nil || len(after) != len(before) {
		t.Errorf("%d files became %d (%v)", len(before), len(after), err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestAPackageWithOtherBytesIsNotInstalled plays a registry that serves
// something else than was pinned.
func TestAPackageWithOtherBytesIsNotInstalled(t *testing.T) {
	lock := read(t, filepath.Join(real, "package-lock.json"))
	hash := lock[strings.Index(lock, `"sha512-`):]
	hash = hash[:len(`"sha512-`)+10]
	other := strings.Replace(lock, hash, `"sha512-AAAAAAAAAA`, 1)
	if other == lock {
		t.Fatal("the hash is as it was")
	}
	_, err := Start(t.Context(), folder(t, map[string]string{
		"package.json": read(t, filepath.Join(real, "package.json")), "package-lock.json": other, "main.mjs": ``,
	}), "main.mjs")
	if err == nil || !strings.Contains(err.Error(), "EINTEGRITY") {
		t.Errorf("want a refusal for its hash: %v", err)
	}
}

func TestALockThatPinsTooLittleIsRefusedBeforeNpmIsAsked(t *testing.T) {
	t.Setenv("PATH", pathWithout(t, "npm"))
	for name, c := range map[string]struct{ lock, want string }{
		"no hash":               {`{"lockfileVersion":3,"packages":{"":{},"node_modules/a":{"version":"1.0.0"}}}`, "SHA-512"},
		"a weak hash":           {`{"lockfileVersion":3,"packages":{"node_modules/a":{"version":"1.0.0","integrity":"sha1-AAAA"}}}`, "SHA-512"},
		"a place":               {`{"lockfileVersion":3,"packages":{"node_modules/a":{"integrity":"sha512-A","resolved":"https://packages.example/a.tgz"}}}`, "comes from"},
		"a folder":              {`{"lockfileVersion":3,"packages":{"node_modules/a":{"link":true}}}`, "comes from"},
		"a form without hashes": {`{"lockfileVersion":1,"dependencies":{}}`, "version"},
		"no JSON":               {`{`, "package-lock.json"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), folder(t, map[string]string{"package-lock.json": c.lock, "main.mjs": ``}), "main.mjs")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want a refusal with %q: %v", c.want, err)
			}
		})
	}
}

func TestNoScriptIsRunToInstall(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	scripts := map[string]string{}
	for _, when := range []string{"preinstall", "install", "postinstall", "prepare"} {
		scripts[when] = "echo " + when + " >> " + ran
	}
	text, err := json.Marshal(map[string]any{"name": "test", "type": "module", "scripts": scripts})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), folder(t, map[string]string{"package.json": string(text), "main.mjs": ``}), "main.mjs")
	if err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	if did, err := os.ReadFile(ran); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ran %q, %v", did, err)
	}
}

func TestAMissingNodeOrNpmIsAnErrorThatSaysWhatToInstall(t *testing.T) {
	dir := folder(t, map[string]string{"main.mjs": ``})
	for _, missing := range []string{"node", "npm"} {
		t.Setenv("PATH", pathWithout(t, missing))
		if _, err := Start(t.Context(), dir, "main.mjs"); err == nil || !strings.Contains(err.Error(), "not installed") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

func TestAnOldNodeIsRefused(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "node"), []byte("#!/bin/sh\necho v16.20.2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if _, err := Start(t.Context(), folder(t, map[string]string{"main.mjs": ``}), "main.mjs"); err == nil || !strings.Contains(err.Error(), "v16.20.2") {
		t.Errorf("want a refusal of the version: %v", err)
	}
}

// pathWithout makes a PATH that has node, but for one program.
func pathWithout(t *testing.T, missing string) string {
	t.Helper()
	bin := t.TempDir()
	if missing != "node" {
		if err := os.WriteFile(filepath.Join(bin, "node"), []byte("#!/bin/sh\necho v18.20.4\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}
