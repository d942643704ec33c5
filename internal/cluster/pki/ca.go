package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"vortex"
)

const (
	// Skew is how far the clocks of two machines may be apart: certificates are valid from that long before they were signed.
	Skew = time.Hour
	// MinLifetime is the shortest life of a certificate.
	MinLifetime = 2 * time.Second
	caLifetime  = 10 * 365 * 24 * time.Hour
	serialBits  = 127
)

// CA signs the certificates of a cluster.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes the CA of a cluster.
func NewCA(cluster string) (*CA, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Vortex CA", OrganizationalUnit: []string{cluster}},
		NotBefore: now.Add(-Skew), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the CA: %w", err)
	}
	return &CA{cert, key}, nil
}

// ParseCA reads a CA from its certificate, the first of a bundle, and its key, both PEM.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, vortex.Errorf(vortex.Invalid, "the CA's key does not belong to its certificate")
	}
	return &CA{certs[0], key}, nil
}

// Pin returns the SHA-256 of the CA's public key, in hex, by which those who join know the cluster.
func (c *CA) Pin() string { return KeyHash(c.cert) }

// Cluster returns the id of the CA's cluster.
func (c *CA) Cluster() string {
	if len(c.cert.Subject.OrganizationalUnit) == 0 {
		return ""
	}
	return c.cert.Subject.OrganizationalUnit[0]
}

// CertPEM returns the CA's certificate.
func (c *CA) CertPEM() []byte { return encode(certificateBlock, c.cert.Raw) }

// KeyPEM returns the CA's key. Who has it is the cluster: it is for servers.
func (c *CA) KeyPEM() ([]byte, error) { return encodeKey(c.key) }

// Request is what a certificate is to say.
type Request struct {
	// Identity is whom it is for; the cluster is the CA's.
	Identity
	// Hosts are the names and addresses at which programs that know nothing of clusters may find a server. Those of a node count for
	// nothing: else one could pass itself off as a server to them.
	Hosts []string
	// Lifetime is how long it is valid from now on; at least MinLifetime.
	Lifetime time.Duration
}

// Sign returns a certificate, PEM, for the holder of a public key, which must be ECDSA P-256.
func (c *CA) Sign(pub crypto.PublicKey, req Request) ([]byte, error) {
	if key, ok := pub.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, vortex.Errorf(vortex.Invalid, "expected an ECDSA key on the curve P-256, got %T", pub)
	}
	if err := CheckName(req.Name); err != nil {
		return nil, err
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	req.Cluster = c.Cluster()
	now := time.Now().Truncate(time.Second) // certificates know whole seconds
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: req.Name, Organization: []string{string(req.Role)}},
		NotBefore:    now.Add(-Skew), NotAfter: earlier(now.Add(max(req.Lifetime, MinLifetime)), c.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	template.URIs = append(template.URIs, req.uri())
	req.names(template)
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", req.Name, err)
	}
	return encode(certificateBlock, der), nil
}

// names writes the names and addresses of a request into a certificate.
func (r Request) names(cert *x509.Certificate) {
	cert.DNSNames = []string{r.Name + ".node" + domain}
	if r.Role != Server {
		return
	}
	cert.DNSNames = append(cert.DNSNames, ServerName, "localhost")
	cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else if host != "" {
			cert.DNSNames = append(cert.DNSNames, host)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	return n, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

func encode(block string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return encode(keyBlock, der), nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, vortex.Errorf(vortex.Invalid, "expected a key in PEM that begins with -----BEGIN %s-----", keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the key cannot be read: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, vortex.Errorf(vortex.Invalid, "expected an ECDSA key, got %T", parsed)
	}
	return key, nil
}

// parseCertificates reads a bundle; it holds at least one.
func parseCertificates(text []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "a certificate cannot be read: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "expected certificates in PEM that begin with -----BEGIN %s-----, got none", certificateBlock)
	}
	return certs, nil
}
