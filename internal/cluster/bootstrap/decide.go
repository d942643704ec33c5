package bootstrap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// voice is what a server says of itself.
type voice struct {
	Machine string `json:"-"` // hash of its public key: the mesh's id
	At      string `json:"-"` // where it was heard
	Name    string `json:"n"`
	Servers int    `json:"s"` // how many are to found
	Kind    string `json:"k"` // host:port of its gRPC services
	// Promise is the machine that it promised to follow.
	Promise string `json:"p,omitempty"`
	// CA is the hash of the public key of the CA that it made: it has founded.
	CA string `json:"c,omitempty"`
}

// verdict is what a server does next: one of them, else it waits.
type verdict struct {
	follow  *voice // who has founded
	promise *voice // whom to promise to follow
	found   bool
	wait    string // why nothing is done yet
}

// decide says what a server does next by what it hears. It is the same for all that hear the same.
func decide(self *voice, others []*voice) verdict {
	if v, founded := afterwards(self, others); founded {
		return v
	}
	all := append([]*voice{self}, others...)
	slices.SortFunc(all, func(a, b *voice) int { return cmp.Compare(a.Name, b.Name) })
	if wrong := misfit(self, all); wrong != "" {
		return verdict{wait: wrong}
	}
	promised := map[string]bool{}
	for _, v := range all {
		if v.Promise != "" {
			promised[v.Promise] = true
		}
	}
	chosen := all[0]
	switch at := slices.IndexFunc(all, func(v *voice) bool { return promised[v.Machine] }); {
	case len(promised) > 1:
		return verdict{wait: "the servers promised to follow different ones: " + promises(all) + "\nstop all, remove their data directories, and start again"}
	case len(promised) == 1 && at < 0:
		return verdict{wait: "servers promised to follow one that is not here: " + promises(all) + "\nstart that one; if it is lost for good, stop all, remove their data directories, and start again"}
	case len(promised) == 1:
		chosen = all[at]
	}
	if chosen != self {
		if self.Promise == "" {
			return verdict{promise: chosen}
		}
		return verdict{wait: fmt.Sprintf("waiting for %s to found the cluster", chosen)}
	}
	for _, v := range others {
		if v.Promise != self.Machine {
			return verdict{wait: fmt.Sprintf("waiting for %s to agree that %s founds the cluster", v, self)}
		}
	}
	return verdict{found: true}
}

// afterwards is what a server does when one of the others has founded the cluster.
func afterwards(self *voice, others []*voice) (verdict, bool) {
	var founder *voice
	for _, v := range others {
		switch {
		case v.CA == "":
		case founder != nil:
			return verdict{wait: fmt.Sprintf("two clusters were founded with this secret, by %s and %s: give this server to one of them with a token of `vortex token join --role server`", founder, v)}, true
		default:
			founder = v
		}
	}
	switch {
	case founder == nil:
		return verdict{}, false
	case self.Promise != "" && self.Promise != founder.Machine:
		return verdict{wait: fmt.Sprintf("%s founded a cluster, but this server promised to follow another one; remove its data directory to follow %s", founder, founder.Name)}, true
	case founder.Servers != self.Servers:
		return verdict{wait: fmt.Sprintf("%s founded a cluster of %d servers, this one has --bootstrap %d: start it with the same number", founder, founder.Servers, self.Servers)}, true
	case founder.Name == self.Name:
		return verdict{wait: fmt.Sprintf("%s has this server's name: give this one another with --name", founder)}, true
	default:
		return verdict{follow: founder}, true
	}
}

// misfit is why the servers that are heard cannot found a cluster, "" when they can.
func misfit(self *voice, all []*voice) string {
	for i, v := range all {
		if i > 0 && v.Name == all[i-1].Name {
			return fmt.Sprintf("two servers have the same name: %s and %s; give one of them another with --name", all[i-1], v)
		}
	}
	for _, v := range all {
		if v.Servers != self.Servers {
			return fmt.Sprintf("%s has --bootstrap %d, this server %d: start all with the same number", v, v.Servers, self.Servers)
		}
	}
	switch missing := self.Servers - len(all); {
	case missing > 0:
		return fmt.Sprintf("waiting for %d more of %d servers; here are %s", missing, self.Servers, names(all))
	case missing < 0:
		return fmt.Sprintf("%d servers want to found a cluster of %d: %s; stop those that are too many, and let them join later with a token of `vortex token join --role server`", len(all), self.Servers, names(all))
	}
	return ""
}

// String names a server for people.
func (v *voice) String() string {
	if v.At == "" {
		return v.Name
	}
	return v.Name + " (" + v.At + ")"
}

func names(all []*voice) string {
	list := make([]string, len(all))
	for i, v := range all {
		list[i] = v.String()
	}
	return strings.Join(list, ", ")
}

// promises tells who promised to follow whom.
func promises(all []*voice) string {
	var list []string
	for _, v := range all {
		if v.Promise == "" {
			continue
		}
		whom := "one that is not here"
		for _, o := range all {
			if o.Machine == v.Promise {
				whom = o.Name
			}
		}
		list = append(list, v.Name+" "+whom)
	}
	return strings.Join(list, ", ")
}
