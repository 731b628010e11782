package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/policy/strictyaml"
)

func serveCommand(p process) *cobra.Command {
	var config, level string
	var pause bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the broker",
		Long: `Run the broker until SIGTERM or Ctrl-C, which let requests under way end. Grants and
policies are read again when their files change, and at SIGHUP; a fault keeps the
old ones and says so in the log, in /readyz and in the metrics. A change elsewhere
in the configuration needs a restart. Where they have faults at the start, the
version that was loaded last decides.

With --pause-revocation nothing is taken back unless a job or an operator asks for it:
for a start from a backup of the state, to see with daypassd lease list what would go.
Start all brokers so; the next start without it takes up what is due.`,
		Example: `  daypassd serve --config daypass.yaml
  daypassd serve --config daypass.yaml --pause-revocation`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(p.stderr, level)
			if err != nil {
				return err
			}
			c, err := loadConfig(config)
			if err == nil {
				err = c.missingVariables(p)
			}
			if err != nil {
				return configError(err)
			}
			if pause {
				c.revoking = broker.RevokingAsked
			}
			return serve(cmd.Context(), c, p, log)
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().BoolVar(&pause, "pause-revocation", false, "take nothing back unless somebody asks for it; see daypassd lease list")
	return cmd
}

func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level is %q; it must be debug, info, warn or error", level)}
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// configError sets the faults of a configuration under a line of their own.
func configError(err error) error {
	if _, inside := errors.AsType[*strictyaml.Fault](err); !inside {
		return fmt.Errorf("%w; --config says which file it is", err)
	}
	return fmt.Errorf("the configuration has faults:\n%w", err)
}

// serve runs a broker until ctx ends. Whatever it starts it waits for.
func serve(ctx context.Context, c *Config, p process, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1) // from the first moment: unheard, it would end the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	defer runtime.KeepAlive(ballast(p.env))
	d, err := assemble(ctx, c, p, log)
	if err != nil {
		return err
	}
	d.hangup = hangup
	return errors.Join(d.serve(ctx), d.close(ctx))
}

// serve listens, and runs until ctx ends.
func (d *daemon) serve(ctx context.Context) error {
	c := d.config
	public, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	admin, err := net.Listen("tcp", c.Admin.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("admin.listen: %w", err), public.Close())
	}
	lost, err := unknownTargets(ctx, d.state.book, d.targets)
	if err != nil {
		d.log.Warn("leases cannot be looked through yet", "err", err)
	}
	for name, n := range lost {
		d.log.Error("credentials cannot be taken back: their target is not configured; put it back with retired: true", "target", name, "leases", n)
	}
	if err := d.tellPaused(ctx); err != nil {
		return errors.Join(err, public.Close(), admin.Close())
	}
	d.log.Info("serving", "url", c.URL, "listen", public.Addr().String(), "admin", admin.Addr().String(),
		"deployment", c.Deployment, "broker", c.Broker, "version", version)
	return d.run(ctx, public, admin)
}

// run holds everything that goes on in the background. The listeners end first,
// then what serves them.
func (d *daemon) run(ctx context.Context, public, admin net.Listener) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var back errgroup.Group
	back.Go(func() error { d.broker.Run(background); return nil })
	back.Go(func() error { d.state.run(background); return nil })
	back.Go(func() error { return d.issuers.Run(background) })
	back.Go(func() error { return d.ring.Run(background) })
	back.Go(func() error { return d.reloader.run(background, d.hangup) })

	front, ctx := errgroup.WithContext(ctx)
	front.Go(func() error { return d.publicServer.Serve(ctx, public) })
	front.Go(func() error { return d.adminServer.Serve(ctx, admin) })
	err := front.Wait()
	d.log.Info("stopping")
	stop()
	return errors.Join(err, back.Wait())
}
