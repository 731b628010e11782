package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// How long and how large anything may be. An exchange mints for at most 20 s
// and undoes for at most 20 s: 60 s hold both.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 16<<10 + 4<<10 // a token of 16 KiB, and the rest
	maxStreams        = 100            // of one HTTP/2 connection
	defaultGrace      = 50 * time.Second
)

// ServerConfig is what a [Server] is made of.
type ServerConfig struct {
	Handler http.Handler
	TLS     *TLSFiles // nil: plain HTTP, on loopback or behind a proxy
	Grace   time.Duration
	Log     *slog.Logger
	Now     func() time.Time
}

// Server is an [http.Server] with every limit set.
type Server struct {
	http  *http.Server
	tls   bool
	grace time.Duration
	log   *slog.Logger
}

// NewServer reads the TLS files, if there are any. Grace is how long requests
// in flight may take to end when the server stops; default 50 s.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Handler == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("api: server needs Handler, Log and Now")
	}
	s := &Server{tls: c.TLS != nil, grace: cmp.Or(c.Grace, defaultGrace), log: c.Log, http: &http.Server{
		Handler:           c.Handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // handshakes that scanners break off
	}}
	if c.TLS != nil {
		certs, err := newCerts(*c.TLS, c.Now, c.Log)
		if err != nil {
			return nil, err
		}
		s.http.TLSConfig = certs.config()
	}
	return s, nil
}

// Serve answers on l until ctx ends, and then lets requests in flight end
// within the grace; those that do not are cut off, which is an error. It closes
// l. A server serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ended := make(chan error, 1)
	go func() {
		if s.tls {
			ended <- s.http.ServeTLS(l, "", "")
		} else {
			ended <- s.http.Serve(l)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer done()
	err := s.http.Shutdown(grace)
	if err != nil {
		err = fmt.Errorf("requests were cut off after %v: %w", s.grace, errors.Join(err, s.http.Close()))
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
