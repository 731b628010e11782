//go:build unix

package npm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// minNode is the oldest major version of Node.js that programs are written for.
const minNode = 18

// install copies the files of a folder to dir and installs there what its lock
// pins.
func install(ctx context.Context, folder, dir string) error {
	if err := checkNode(ctx); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		return fmt.Errorf("read what to install: %w", err)
	}
	if err := checkLock(raw); err != nil {
		return fmt.Errorf("%s: package-lock.json: %w", folder, err)
	}
	if err := copyFiles(folder, dir); err != nil {
		return err
	}
	_, err = servers.Run(ctx, servers.Command{Name: "npm ci", Path: "npm", Dir: dir, Args: []string{
		"ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier",
		// A registry that stumbles is asked again within seconds, not within minutes.
		"--fetch-retries=5", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=5000",
	}})
	return err
}

// checkNode says what is missing before npm says something else.
func checkNode(ctx context.Context) error {
	out, err := servers.Run(ctx, servers.Command{Name: "Node.js", Path: "node", Args: []string{"--version"}})
	if err != nil {
		return fmt.Errorf("%w (Debian's packages nodejs and npm have it)", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < minNode {
		return fmt.Errorf("the Node.js here is %s, and %d is the oldest that will do", strings.TrimSpace(out), minNode)
	}
	return nil
}

// checkLock holds a lock to one form: a hash for every package, and no word of
// where it comes from.
func checkLock(raw []byte) error {
	var lock struct {
		Version  int `json:"lockfileVersion"`
		Packages map[string]struct {
			Integrity string `json:"integrity"`
			Resolved  string `json:"resolved"`
			Link      bool   `json:"link"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(raw, &lock); err != nil {
		return err
	}
	if lock.Version != 3 {
		return fmt.Errorf("its version is %d, not 3", lock.Version)
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(lock.Packages)) {
		switch p := lock.Packages[name]; {
		case name == "": // the program itself
		case p.Resolved != "" || p.Link:
			faults = append(faults, fmt.Errorf("%s: it says where the package comes from", name))
		case !strings.HasPrefix(p.Integrity, "sha512-"):
			faults = append(faults, fmt.Errorf("%s: it has no SHA-512 of the package", name))
		}
	}
	return errors.Join(faults...)
}

// copyFiles copies a folder's files, and none of its folders.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}
