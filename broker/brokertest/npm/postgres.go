//go:build unix

package npm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/daypass-dev/daypass/broker/brokertest/servers"
)

// Postgres is a folder of PostgreSQL servers of several versions.
type Postgres struct{ dir string }

// InstallPostgres installs the servers that the package-lock.json of a folder
// pins for this machine, each under the name that [Postgres.Bin] looks for.
// Close removes them.
func InstallPostgres(ctx context.Context, folder string) (*Postgres, error) {
	dir, err := servers.PrivateDir("daypass-pg-versions-", "")
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: dir}
	if err := install(ctx, folder, dir); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	// The server runs under an account of its own where we are root. It may read
	// what is nobody's secret, and write nothing of it.
	if err := readable(dir); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// readable lets everybody read a folder with all that is in it.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// Bin is the folder of the programs of one major version.
func (p *Postgres) Bin(version int) (string, error) {
	cpu := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	root := filepath.Join(p.dir, "node_modules", "postgres-"+strconv.Itoa(version)+"-"+cpu)
	bin := filepath.Join(root, "native", "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err != nil {
		return "", fmt.Errorf("npm installed no PostgreSQL %d for %s/%s: %w", version, runtime.GOOS, runtime.GOARCH, err)
	}
	if err := linkLibraries(root); err != nil {
		return "", fmt.Errorf("PostgreSQL %d: %w", version, err)
	}
	return bin, nil
}

// linkLibraries makes the links that an npm package cannot hold and lists
// instead. Its own script would make them, and none is run.
func linkLibraries(root string) error {
	raw, err := os.ReadFile(filepath.Join(root, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return fmt.Errorf("list of links: %w", err)
	}
	for _, l := range links {
		beside := filepath.Dir(l.Source) == filepath.Dir(l.Target)
		if !beside || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("a link from %q to %q leads elsewhere", l.Target, l.Source)
		}
		err := os.Symlink(filepath.Base(l.Source), filepath.Join(root, l.Target))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// Close removes the servers. Whoever runs one stops it before.
func (p *Postgres) Close() error { return os.RemoveAll(p.dir) }
