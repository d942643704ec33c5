package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/cluster/pki"
)

// TLS says how the API's and Kind's ports are protected. Without Cert they speak in the clear.
type TLS struct {
	// Cert and Key are files with the server's certificate, with its chain, and its key, PEM.
	Cert, Key string
	// ClientCA is a file with the CA of client certificates, PEM; "" asks for none.
	ClientCA string
	// RequireClient refuses clients of Kind without a certificate. The API asks for one, and takes a token instead.
	RequireClient bool
}

// certificates are the server's, read anew when their files change.
type certificates struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	stamp   [3]fileStamp
	pair    tls.Certificate
	clients *x509.CertPool
}

// fileStamp tells whether a file was changed.
type fileStamp struct {
	size    int64
	changed time.Time
}

// openCertificates reads the files; nil without TLS. The error is Invalid and says which file is wrong and why.
func openCertificates(files TLS, log *slog.Logger) (*certificates, error) {
	if files.Cert == "" {
		return nil, nil //nolint:nilnil // no TLS is no failure
	}
	c := &certificates{files: files, log: log, stamp: files.stamps()}
	return c, c.read()
}

func (t TLS) stamps() (stamps [3]fileStamp) {
	for i, name := range []string{t.Cert, t.Key, t.ClientCA} {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = fileStamp{info.Size(), info.ModTime()}
		}
	}
	return stamps
}

// read takes in what the files hold. The caller holds the lock, or is alone.
func (c *certificates) read() error {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "the certificate %s with key %s cannot be used: %w", c.files.Cert, c.files.Key, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return vortex.Errorf(vortex.Invalid, "the certificate %s expired on %s; renew it", c.files.Cert, pair.Leaf.NotAfter.Format(time.DateTime))
	} else if now.Before(pair.Leaf.NotBefore) {
		return vortex.Errorf(vortex.Invalid, "the certificate %s is only valid from %s on; is the clock right?", c.files.Cert, pair.Leaf.NotBefore.Format(time.DateTime))
	}
	var clients *x509.CertPool
	if c.files.ClientCA != "" {
		pem, err := os.ReadFile(c.files.ClientCA)
		if err != nil {
			return vortex.Errorf(vortex.Invalid, "the CA of client certificates cannot be read: %w", err)
		}
		clients = x509.NewCertPool()
		if !clients.AppendCertsFromPEM(pem) {
			return vortex.Errorf(vortex.Invalid, "%s holds no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----", c.files.ClientCA)
		}
	}
	c.pair, c.clients = pair, clients
	return nil
}

// config returns a configuration that looks at the files at every handshake.
func (c *certificates) config(require bool, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, clients := c.current()
			cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{pair}}
			if clients != nil {
				cfg.ClientCAs, cfg.ClientAuth = clients, tls.VerifyClientCertIfGiven
				if require {
					cfg.ClientAuth = tls.RequireAndVerifyClientCert
				}
			}
			return cfg, nil
		},
	}
}

// current returns what the files hold; while they are wrong, what they held before.
func (c *certificates) current() (tls.Certificate, *x509.CertPool) {
	stamp := c.files.stamps()
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamp != c.stamp {
		c.stamp = stamp
		if err := c.read(); err != nil {
			c.log.Warn("New certificate not used, the old one stays", "err", err)
		} else {
			c.log.Info("Certificate read again", "file", c.files.Cert, "until", c.pair.Leaf.NotAfter)
		}
	}
	return c.pair, c.clients
}

// trust is how clients on this machine trust the server: they take its certificate itself for a CA.
func (c *certificates) trust() client.TLS {
	if c == nil {
		return client.TLS{}
	}
	pair, _ := c.current()
	t := client.TLS{CA: c.files.Cert}
	if abs, err := filepath.Abs(t.CA); err == nil {
		t.CA = abs
	}
	switch leaf := pair.Leaf; {
	case len(leaf.DNSNames) > 0:
		t.ServerName = strings.Replace(leaf.DNSNames[0], "*", "vortex", 1)
	case len(leaf.IPAddresses) > 0:
		t.ServerName = leaf.IPAddresses[0].String()
	}
	return t
}

// readCertificates reads the certificates before anything starts that would need them.
func (n *Node) readCertificates(context.Context) (err error) {
	n.certificates, err = openCertificates(n.cfg.TLS, n.component("tls"))
	return err
}

// kindSecurity is how Kind's port is protected.
func (n *Node) kindSecurity() []grpc.ServerOption {
	creds := insecure.NewCredentials()
	switch {
	case n.holder != nil:
		creds = credentials.NewTLS(n.memberTLS("h2"))
	case n.certificates != nil:
		creds = credentials.NewTLS(n.certificates.config(n.cfg.TLS.RequireClient, "h2"))
	}
	return []grpc.ServerOption{grpc.Creds(kindrpc.TransportCredentials(creds))}
}

// apiTLS is how the API's port is protected, nil when it is not.
func (n *Node) apiTLS() *tls.Config {
	switch {
	case n.holder != nil:
		return n.memberTLS("h2", "http/1.1")
	case n.certificates != nil:
		return n.certificates.config(false, "h2", "http/1.1")
	default:
		return nil
	}
}

// localTrust is how clients on this machine trust the server.
func (n *Node) localTrust() client.TLS {
	if n.holder != nil {
		return client.TLS{CA: n.holder.Dir().Path(pki.CAFile), ServerName: pki.ServerName}
	}
	return n.certificates.trust()
}

// warnOpen tells who can listen in on an address that is served without TLS.
func (n *Node) warnOpen(ctx context.Context, what, addr string) {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	if err != nil || n.certificates != nil || n.holder != nil || ip != nil && ip.IsLoopback() {
		return
	}
	n.log.WarnContext(ctx, "Tokens and data cross the network in the clear: set tls.cert and tls.key, or listen on 127.0.0.1", "part", what, "address", addr)
}
