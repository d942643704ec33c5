package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"vortex"
)

// Holder has a process's certificate and its cluster's trust, as they are now. Use Open, set the fields, and Run it.
type Holder struct {
	// Renew gets a new certificate for the same key from a server, or from the CA where the process has it.
	Renew func(ctx context.Context, old Renewal) (Bundle, error)
	// Renewed is called after a new certificate was taken up; nil for nobody.
	Renewed func()
	// Log tells what an operator would act on; nil discards.
	Log *slog.Logger

	dir     Dir
	key     *ecdsa.PrivateKey
	current atomic.Pointer[held]
	trouble atomic.Pointer[error] // why the last renewal failed
}

// Renewal is what shows who asks for a new certificate.
type Renewal struct {
	Certificate []byte // the one that is held, DER; it may have expired
	Request     []byte // a signing request with its key, DER
}

// held is one certificate with the trust that came with it.
type held struct {
	pair     tls.Certificate
	identity Identity
	roots    *x509.CertPool
	ca       []byte // PEM
	taken    time.Time
	age      time.Duration // when it was taken, by this machine's clock
}

// newHeld checks that a certificate is for a key and from a CA.
func newHeld(key crypto.Signer, certPEM, caPEM []byte) (*held, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, err
	}
	cas, err := parseCertificates(caPEM)
	if err != nil {
		return nil, err
	}
	leaf := certs[0]
	identity, err := Identify(leaf)
	if err != nil {
		return nil, err
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, vortex.Errorf(vortex.Invalid, "the certificate of %s is for another key than this machine's", identity.Name)
	}
	h := &held{
		pair:     tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		identity: identity, roots: x509.NewCertPool(), ca: caPEM, taken: time.Now(),
	}
	for _, ca := range cas {
		h.roots.AddCert(ca)
	}
	chain, err := h.chain(leaf, leaf.NotAfter)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the certificate of %s is not from the cluster's CA: %w", identity.Name, err)
	}
	h.pair.Certificate = append(h.pair.Certificate, chain[len(chain)-1].Raw) // for those who know the CA by its hash
	return h, nil
}

// chain verifies that the cluster's CA signed a certificate and that it is valid at a time.
func (h *held) chain(cert *x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	chains, err := cert.Verify(x509.VerifyOptions{Roots: h.roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// issued is when the certificate was signed, by the signer's clock.
func (h *held) issued() time.Time { return h.pair.Leaf.NotBefore.Add(Skew) }

// lifetime is how long the certificate was to be valid when it was signed.
func (h *held) lifetime() time.Duration { return h.pair.Leaf.NotAfter.Sub(h.issued()) }

// Open reads the certificate in a directory: NotFound when there is none, because the machine belongs to no cluster.
func Open(dir Dir) (*Holder, error) {
	cert, err := dir.Read(CertFile)
	if err != nil {
		return nil, err
	}
	key, err := dir.Key()
	if err != nil {
		return nil, err
	}
	ca, err := dir.Read(CAFile)
	if err != nil {
		return nil, err
	}
	current, err := newHeld(key, cert, ca)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "%s: %w", dir, err)
	}
	current.age = max(0, current.taken.Sub(current.issued()))
	h := &Holder{dir: dir, key: key, Log: slog.New(slog.DiscardHandler)}
	h.current.Store(current)
	return h, nil
}

// Identity returns whom the certificate is for.
func (h *Holder) Identity() Identity { return h.current.Load().identity }

// Expires returns until when the certificate is valid.
func (h *Holder) Expires() time.Time { return h.current.Load().pair.Leaf.NotAfter }

// Dir returns where the holder's files are.
func (h *Holder) Dir() Dir { return h.dir }

// CertPEM returns the certificates that the cluster trusts.
func (h *Holder) CertPEM() []byte { return h.current.Load().ca }

// KeyHash returns the hash of the process's public key.
func (h *Holder) KeyHash() string { return KeyHash(h.current.Load().pair.Leaf) }

// Pair returns the certificate to show now, with the CA that signed it.
func (h *Holder) Pair() *tls.Certificate { return &h.current.Load().pair }

// Roots returns the cluster's CAs now. The pool is shared: clone it to add others.
func (h *Holder) Roots() *x509.CertPool { return h.current.Load().roots }

// Renewal returns what a signer needs to know to renew the certificate.
func (h *Holder) Renewal() (Renewal, error) {
	request, err := SigningRequest(h.key)
	return Renewal{Certificate: h.current.Load().pair.Leaf.Raw, Request: request}, err
}

// Server returns the configuration for the server's side of a connection. Clients are asked for a certificate; who shows one of a server
// or node has to be of this cluster, who shows none is let in, for others to judge.
func (h *Holder) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols, SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: protocols, SessionTicketsDisabled: true, // each handshake is judged anew
				Certificates: []tls.Certificate{*h.Pair()}, ClientCAs: h.Roots(), ClientAuth: tls.VerifyClientCertIfGiven,
				VerifyConnection: h.VerifyClient,
			}, nil
		},
	}
}

// VerifyClient refuses a client that shows the certificate of a server or node of another cluster, or of another epoch of this one.
func (h *Holder) VerifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || !IsMember(state.PeerCertificates[0]) {
		return nil
	}
	_, err := h.verify(state.PeerCertificates[0])
	return err
}

// Client returns the configuration for a connection to a server of the cluster: it shows the certificate, and takes that of any
// server of the cluster at whatever address.
func (h *Holder) Client(protocols ...string) *tls.Config {
	return h.client(protocols, func(id Identity) error {
		if id.Role != Server {
			return vortex.Errorf(vortex.Unauthenticated, "expected a server of the cluster, got the node %s", id.Name)
		}
		return nil
	})
}

// Peer returns the configuration for a connection to the server or node of a name.
func (h *Holder) Peer(name string, protocols ...string) *tls.Config {
	return h.client(protocols, func(id Identity) error {
		if id.Name != name {
			return vortex.Errorf(vortex.Unauthenticated, "expected %s, got %s", name, id.Name)
		}
		return nil
	})
}

func (h *Holder) client(protocols []string, check func(Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, ServerName: ServerName, // asks for the cluster's certificate
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, with the trust of the moment and by what the certificate says
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return vortex.Errorf(vortex.Unauthenticated, "expected a certificate, got none")
			}
			id, err := h.verify(state.PeerCertificates[0])
			if err != nil {
				return err
			}
			return check(id)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.Pair(), nil },
	}
}

// verify returns whom a certificate is for, if it is valid now and of this cluster and epoch.
func (h *Holder) verify(cert *x509.Certificate) (Identity, error) {
	return h.VerifyAt(cert, time.Now())
}

// VerifyAt returns whom a certificate is for, if the cluster's CA signed it, it is of the holder's epoch and it was valid at a time.
func (h *Holder) VerifyAt(cert *x509.Certificate, at time.Time) (Identity, error) {
	current := h.current.Load()
	if _, err := current.chain(cert, at); err != nil {
		return Identity{}, vortex.Errorf(vortex.Unauthenticated, "the certificate is not one of this cluster: %w", err)
	}
	id, err := Identify(cert)
	if err != nil {
		return Identity{}, err
	}
	own := current.identity
	if id.Cluster != own.Cluster {
		return Identity{}, vortex.Errorf(vortex.Unauthenticated, "%s is of the cluster %s, %s of %s", id.Name, id.Cluster, own.Name, own.Cluster)
	}
	if id.Epoch != own.Epoch {
		return Identity{}, vortex.Errorf(vortex.Unauthenticated, "%s is of epoch %d of the cluster, %s of epoch %d: who has the older one must join again", id.Name, id.Epoch, own.Name, own.Epoch)
	}
	return id, nil
}

// Later returns whom a certificate is for, and whether that is a server of this cluster in a later epoch: the cluster was recovered without the holder.
func (h *Holder) Later(shown []*x509.Certificate) (Identity, bool) {
	current := h.current.Load()
	if len(shown) == 0 {
		return Identity{}, false
	}
	if _, err := current.chain(shown[0], time.Now()); err != nil {
		return Identity{}, false
	}
	id, err := Identify(shown[0])
	return id, err == nil && id.Role == Server && id.Cluster == current.identity.Cluster && id.Epoch > current.identity.Epoch
}

// Take keeps a new bundle and uses it from the next handshake on. It must be for the same name and key.
func (h *Holder) Take(b Bundle) error {
	next, err := newHeld(h.key, b.Certificate, b.CA)
	if err != nil {
		return err
	}
	next.age = max(0, min(next.taken.Sub(next.issued()), time.Second)) // it knows whole seconds; more is the clocks' difference
	before := h.current.Load()
	if next.identity.Name != before.identity.Name || next.identity.Role != before.identity.Role || next.identity.Cluster != before.identity.Cluster {
		return vortex.Errorf(vortex.Invalid, "expected a certificate for %s, got one for %s", before.identity, next.identity)
	}
	if err := h.dir.Install(b); err != nil {
		return err
	}
	h.current.Store(next)
	if h.Renewed != nil {
		h.Renewed()
	}
	return nil
}

// String names an identity for people.
func (id Identity) String() string {
	return fmt.Sprintf("%s (%s of cluster %s, epoch %d)", id.Name, id.Role, id.Cluster, id.Epoch)
}
