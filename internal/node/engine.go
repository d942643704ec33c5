package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/postgres"
)

// openEngine opens what the store's URL names: the embedded engine, an etcd cluster or a PostgreSQL database.
func openEngine(ctx context.Context, cfg Config, log *slog.Logger) (engine.Engine, error) {
	scheme, rest, _ := strings.Cut(cfg.Store, "://")
	switch scheme {
	case "":
		return openEmbedded(ctx, cfg, log)
	case "etcd":
		return openEtcd(ctx, cfg, rest)
	case "postgres", "postgresql":
		return openPostgres(ctx, cfg, log)
	default:
		return nil, vortex.Errorf(vortex.Invalid,
			"--store must be etcd://host:port[,host:port…] or postgres://user@host/database, or left out, got scheme %q", scheme)
	}
}

func openEmbedded(ctx context.Context, cfg Config, log *slog.Logger) (engine.Engine, error) {
	if err := free(ctx, cfg); err != nil {
		return nil, err
	}
	return embeddedStore(cfg, log).Open(ctx)
}

// openEtcd connects to a cluster named by [user:password@]host:port,host:port[/prefix].
func openEtcd(ctx context.Context, cfg Config, rest string) (engine.Engine, error) {
	hosts, path, _ := strings.Cut(rest, "/")
	external := etcd.External{Prefix: path}
	if at := strings.LastIndex(hosts, "@"); at >= 0 {
		user, err := url.Parse("etcd://" + hosts[:at] + "@host")
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the credentials in --store cannot be read: expected etcd://user:password@host:port, with %%40 for an @ in them")
		}
		external.Username = user.User.Username()
		external.Password, _ = user.User.Password()
		hosts = hosts[at+1:]
	}
	external.Endpoints = strings.Split(hosts, ",")
	var err error
	if external.TLS, err = cfg.StoreTLS.load(); err != nil {
		return nil, err
	}
	return external.Open(ctx)
}

func openPostgres(ctx context.Context, cfg Config, log *slog.Logger) (engine.Engine, error) {
	if _, err := cfg.StoreTLS.load(); err != nil { // in our words, not in the driver's
		return nil, err
	}
	return postgres.Config{URL: cfg.StoreTLS.addTo(cfg.Store), Log: log}.Open(ctx)
}

// StoreTLS names the files that prove who an external store and this server are to each other. All may be left out.
type StoreTLS struct {
	// CA signs the store's certificate; "" trusts the system's authorities, when Cert is given.
	CA string
	// Cert and Key are this server's certificate for the store; both or none.
	Cert, Key string
}

// load reads the files; nil means to connect without TLS.
func (t StoreTLS) load() (*tls.Config, error) {
	if t == (StoreTLS{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "--store-ca cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, vortex.Errorf(vortex.Invalid, "--store-ca: expected certificates in PEM, found none in %s", t.CA)
		}
	}
	if t.Cert == "" {
		return config, nil
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "--store-cert and --store-key: expected a certificate and its key in PEM: %w", err)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // anew: it may have been renewed
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("load the store's client certificate: %w", err)
		}
		return &pair, nil
	}
	return config, nil
}

// addTo writes the files into a database URL. An authority that is named is there to be checked against.
func (t StoreTLS) addTo(database string) string {
	for _, p := range []struct{ name, value string }{{"sslrootcert", t.CA}, {"sslcert", t.Cert}, {"sslkey", t.Key}} {
		if p.value != "" {
			database = withParameter(database, p.name, p.value)
		}
	}
	if t.CA != "" && !strings.Contains(database, "sslmode=") {
		database = withParameter(database, "sslmode", "verify-full")
	}
	return database
}

func withParameter(database, name, value string) string {
	separator := "?"
	if strings.Contains(database, "?") {
		separator = "&"
	}
	return database + separator + name + "=" + url.QueryEscape(value)
}

// free refuses addresses of the embedded engine that something else listens on, naming the flag to change.
func free(ctx context.Context, cfg Config) error {
	for flag, addr := range map[string]string{"--etcd-client": cfg.EtcdClient, "--etcd-peer": cfg.EtcdPeer} {
		if addr == "" {
			continue
		}
		l, err := listen(ctx, "The embedded store", flag, addr)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("probe %s: %w", addr, err)
		}
	}
	return nil
}
