package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/daypass-dev/daypass/broker/brokertest/fakeissuer"
)

// What lies in --dir.
const (
	keyName   = "key.pem"
	stateName = "fakeci.json"
)

// state tells others where the server is. It is written once it listens.
type state struct {
	URL     string                         `json:"url"`
	Issuers map[fakeissuer.Provider]string `json:"issuers"`
}

func newServe() *cobra.Command {
	var dir, listen string
	cmd := &cobra.Command{
		Use:   "serve --dir DIR",
		Short: "Serve discovery, keys and ID tokens until it is told to stop",
		Long: `serve makes DIR with a signing key, listens, writes DIR/fakeci.json with its URLs
and prints them. It stops on SIGTERM and SIGINT.

FOR THE DEMO, DEVELOPMENT AND TESTS ONLY. It listens on loopback addresses only.`,
		Example: `  fakeci serve --dir ./ci
  fakeci serve --dir ./ci --listen 127.0.0.1:9000`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("--dir is missing")
			}
			if err := checkLoopback(listen); err != nil {
				return err
			}
			return serve(cmd.Context(), dir, listen, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the key and fakeci.json; it is made if it is not there")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "loopback address and port; port 0 takes a free one")
	return cmd
}

// checkLoopback keeps a key that signs anything away from the network. Names
// are refused: they mean what the resolver says.
func checkLoopback(listen string) error {
	a, err := netip.ParseAddrPort(listen)
	if err != nil {
		return usagef("--listen %q: want an IP address and a port, such as 127.0.0.1:9000", listen)
	}
	if !a.Addr().Unmap().IsLoopback() {
		return usagef("--listen %s: only loopback addresses, such as 127.0.0.1: fakeci signs anything, and is for development and tests", listen)
	}
	return nil
}

// serve listens until ctx ends.
func serve(ctx context.Context, dir, listen string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := fakeissuer.LoadOrCreateKey(filepath.Join(dir, keyName))
	if err != nil {
		return err
	}
	// Whoever waits for the file must not find that of an earlier run.
	statePath := filepath.Join(dir, stateName)
	if err := os.Remove(statePath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	server, err := fakeissuer.Serve(l, fakeissuer.Options{Key: key})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if err := announce(server.Fake, statePath, out); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case <-ctx.Done():
		return server.Close()
	case err := <-server.Done():
		return fmt.Errorf("serve: %w", err)
	}
}

// announce writes fakeci.json, whole or not at all, and prints it for people.
func announce(fake *fakeissuer.Fake, path string, out io.Writer) error {
	st := state{URL: fake.Base(), Issuers: map[fakeissuer.Provider]string{}}
	for _, p := range fakeissuer.Providers() {
		st.Issuers[p] = fake.URL(p)
	}
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "fakeci signs anything: for the demo, development and tests only\nurl: %s\n", st.URL)
	for _, p := range fakeissuer.Providers() {
		if err == nil {
			_, err = fmt.Fprintf(out, "%s: %s\n", p, st.Issuers[p])
		}
	}
	return err
}

// open returns the toy provider that a server in dir is, to sign in its name.
func open(dir string) (*fakeissuer.Fake, error) {
	raw, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: run fakeci serve --dir %s first", filepath.Join(dir, stateName), dir)
	}
	if err != nil {
		return nil, err
	}
	var st state
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateName), err)
	}
	key, err := fakeissuer.LoadKey(filepath.Join(dir, keyName))
	if err != nil {
		return nil, err
	}
	return fakeissuer.New(st.URL, fakeissuer.Options{Key: key})
}
