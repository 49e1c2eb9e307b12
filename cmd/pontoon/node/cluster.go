package node

import (
	"net/url"
	"slices"
	"strings"
)

// ParseInitialCluster reads etcd's form, name=URL[,name=URL…]; a name may come several times, once for each of its
// URLs. The members come back in the order in which their names were first seen.
func ParseInitialCluster(s string) ([]Member, error) {
	var out []Member
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, addr, ok := strings.Cut(part, "=")
		if !ok || name == "" || addr == "" {
			return nil, invalid("initial-cluster", "%q is not name=URL", part).
				fix("write it as n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380")
		}
		i := slices.IndexFunc(out, func(m Member) bool { return m.Name == name })
		if i < 0 {
			out = append(out, Member{Name: name})
			i = len(out) - 1
		}
		if !slices.Contains(out[i].PeerURLs, addr) {
			out[i].PeerURLs = append(out[i].PeerURLs, addr)
		}
	}
	return out, nil
}

// ParseURLs reads a comma-separated list of URLs; flag is named in the error.
func ParseURLs(flag, s string) ([]url.URL, error) {
	var out []url.URL
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		u, err := url.Parse(part)
		if err != nil {
			return nil, invalid(flag, "%q is not a URL", part).fix("write it as http://host:port")
		}
		out = append(out, *u)
	}
	return out, nil
}
