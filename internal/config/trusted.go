package config

import (
	"net/netip"
	"strings"

	"vortex"
)

// TrustedPrefixes reads edge.trusted: addresses and prefixes, between commas.
func (c *Config) TrustedPrefixes() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for text := range strings.SplitSeq(c.EdgeTrusted, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return nil, vortex.Errorf(vortex.Invalid, "edge.trusted: expected addresses or prefixes such as 10.0.0.0/8,192.0.2.1, got %q", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}
