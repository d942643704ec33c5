package network

import (
	"fmt"
	"log/slog"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// A packet that any table drops is dropped, whatever other tables accept. Where Docker runs, its table drops
// all forwarded packets that are not its own, except those its chain DOCKER-USER accepts: Docker
// makes that chain for others, jumps to it first, and keeps what it finds in it over restarts.

// dockerChain is Docker's chain for others' rules, of the table that iptables calls filter.
var dockerChain = &nftables.Chain{
	Name:  "DOCKER-USER",
	Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4},
}

// mark is the comment that tells this firewall's rules from those of others.
func (f *firewall) mark() string { return f.table + " " + f.bridge }

// ownRules returns those of the rules in Docker's chain that are this firewall's. There is nothing to find when the chain does not exist.
func (f *firewall) ownRules(c *nftables.Conn) (own []*nftables.Rule, exists bool) {
	if _, err := c.ListChain(dockerChain.Table, dockerChain.Name); err != nil {
		return nil, false
	}
	rules, err := c.GetRules(dockerChain.Table, dockerChain)
	if err != nil {
		return nil, false
	}
	for _, r := range rules {
		if s, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && s == f.mark() {
			own = append(own, r)
		}
	}
	return own, true
}

// dockerUserOpen reports whether Docker's chain, if there is one, accepts what the bridge sends and receives.
func (f *firewall) dockerUserOpen(c *nftables.Conn) (bool, error) {
	own, exists := f.ownRules(c)
	return !exists || !f.dockerUser || len(own) == 2, nil
}

// openDockerUser makes Docker's chain, if there is one, accept what the bridge sends and receives.
func (f *firewall) openDockerUser() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	own, exists := f.ownRules(c)
	if !exists || !f.dockerUser || len(own) == 2 {
		return nil
	}
	for _, r := range own {
		if err := c.DelRule(r); err != nil {
			return fmt.Errorf("remove old rule in DOCKER-USER: %w", err)
		}
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		c.InsertRule(&nftables.Rule{
			Table: dockerChain.Table, Chain: dockerChain, UserData: userdata.AppendString(nil, userdata.TypeComment, f.mark()),
			Exprs: join(link(key, expr.CmpOpEq, f.bridge), []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}),
		})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add rules to DOCKER-USER: %w", err)
	}
	return nil
}

// closeDockerUser takes the rules out again.
func (f *firewall) closeDockerUser() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	own, _ := f.ownRules(c)
	for _, r := range own {
		if err := c.DelRule(r); err != nil {
			return fmt.Errorf("remove rule from DOCKER-USER: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove rules from DOCKER-USER: %w", err)
	}
	return nil
}

// checkOthers reports chains of others that drop forwarded packets and that nothing was agreed with.
func (f *firewall) checkOthers(log *slog.Logger) {
	c, err := nftables.New()
	if err != nil {
		return
	}
	_, docker := f.ownRules(c)
	chains, err := c.ListChains()
	if err != nil {
		log.Warn("Other firewalls not checked", "err", err)
		return
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if ch.Table.Family == nftables.TableFamilyIPv6 || (docker && f.dockerUser && ch.Table.Name == dockerChain.Table.Name) {
			continue
		}
		log.Warn("Another firewall drops forwarded packets: allow the bridge in both directions there, or instances reach only this node",
			"table", ch.Table.Name, "chain", ch.Name, "bridge", f.bridge)
	}
}
