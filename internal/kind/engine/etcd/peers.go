package etcd

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"vortex"
)

// PeerTLS names the files by which members prove to each other that they are members. The certificate and its key are read anew at every
// handshake, so that they can be renewed at any time; the authority stays.
type PeerTLS struct {
	// CA signs the certificates of all members, in PEM.
	CA string
	// Cert and Key are this member's, in PEM.
	Cert, Key string
	// Name is a DNS name that the certificates of members have and no others of the authority; both sides of a connection ask for it.
	// Without it a member's certificate has to be good for the address it is reached at, and anyone with a certificate is let in.
	Name string
}

// on reports whether members speak TLS.
func (t PeerTLS) on() bool { return t != PeerTLS{} }

// check refuses files that are missing or no certificates, in words that name them.
func (t PeerTLS) check() error {
	if !t.on() {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		return vortex.Errorf(vortex.Invalid, "the store's certificate: expected a certificate and its key in %s and %s: %w", t.Cert, t.Key, err)
	}
	authority, err := os.ReadFile(t.CA)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "the store's authority cannot be read: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(authority) {
		return vortex.Errorf(vortex.Invalid, "the store's authority: expected certificates in PEM, found none in %s", t.CA)
	}
	return nil
}

// info is the same in etcd's terms.
func (t PeerTLS) info() transport.TLSInfo {
	if !t.on() {
		return transport.TLSInfo{}
	}
	info := transport.TLSInfo{
		CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: true,
		SkipClientSANVerify: true, // where a member comes from is no proof of anything
		MinVersion:          tls.VersionTLS13,
	}
	if t.Name != "" {
		info.ServerName, info.AllowedHostnames = t.Name, []string{t.Name}
	}
	return info
}

// URL is how other members reach one at host:port.
func (t PeerTLS) URL(addr string) string {
	if t.on() {
		return "https://" + addr
	}
	return "http://" + addr
}

// peers sets what concerns the other members.
func (c Embedded) peers(cfg *embed.Config, listen url.URL) {
	advertise := advertised(listen, "2380")
	if c.PeerAddr != "" {
		cfg.TickMs, cfg.ElectionMs = groupTickMillis, groupElectionMillis
		if c.PeerAdvertise != "" {
			advertise.Host = c.PeerAdvertise
		}
		if c.PeerTLS.on() {
			listen.Scheme, advertise.Scheme = "https", "https"
			cfg.PeerTLSInfo = c.PeerTLS.info()
			cfg.TlsMinVersion = "TLS1.3"
		}
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{listen}, []url.URL{advertise}
	group := maps.Clone(c.Group)
	if group == nil {
		group = map[string]string{}
		cfg.InitialClusterToken = rand.Text() // no two groups are the same, wherever they began
	}
	group[cfg.Name] = advertise.String()
	members := make([]string, 0, len(group))
	for _, name := range slices.Sorted(maps.Keys(group)) {
		members = append(members, name+"="+group[name])
	}
	cfg.InitialCluster = strings.Join(members, ",")
	if c.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
}
