package node

import (
	"fmt"
	"net/url"
	"reflect"
	"testing"

	"github.com/pontoon-kv/pontoon/proto/ids"
)

// cluster returns the configuration of node `self` of n.
func cluster(t *testing.T, n, self int, splits ...string) *Config {
	t.Helper()
	c := Default()
	c.DataDir = "data"
	for i := 1; i <= n; i++ {
		u := fmt.Sprintf("http://10.0.0.%d:2380", i)
		c.InitialCluster = append(c.InitialCluster, Member{Name: fmt.Sprintf("n%d", i), PeerURLs: []string{u}})
		if i == self {
			c.Name = fmt.Sprintf("n%d", i)
			p, _ := url.Parse(u)
			c.AdvertisePeerURLs = []url.URL{*p}
		}
	}
	for _, s := range splits {
		c.InitialSplits = append(c.InitialSplits, []byte(s))
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return &c
}

func bootstrap(t *testing.T, c *Config) *Bootstrap {
	t.Helper()
	b, err := NewBootstrap(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestIDsAreEtcds uses what a default etcd of one node prints, which is to be found in thousands of logs.
func TestIDsAreEtcds(t *testing.T) {
	c := Default()
	c.DataDir = "data"
	c.SetInitialClusterFromSelf()
	b := bootstrap(t, &c)
	if b.Self != 0x8e9e05c52164694d || b.ClusterID != 0xcdf818194e3a8c32 {
		t.Errorf("member %v of cluster %x, want 8e9e05c52164694d of cdf818194e3a8c32", b.Self, b.ClusterID)
	}
}

func TestEveryNodeComputesTheSame(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 7} {
		first := bootstrap(t, cluster(t, n, 1, "b", "m", "x"))
		for self := 2; self <= n; self++ {
			c := cluster(t, n, self, "b", "m", "x")
			// The order in which the flag lists the nodes must not matter.
			for i, j := 0, len(c.InitialCluster)-1; i < j; i, j = i+1, j-1 {
				c.InitialCluster[i], c.InitialCluster[j] = c.InitialCluster[j], c.InitialCluster[i]
			}
			b := bootstrap(t, c)
			if b.ClusterID != first.ClusterID || !reflect.DeepEqual(b.Ranges, first.Ranges) || !reflect.DeepEqual(b.Nodes, first.Nodes) {
				t.Errorf("%d nodes: node %d computed another cluster than node 1", n, self)
			}
			if b.Self == first.Self {
				t.Errorf("%d nodes: nodes 1 and %d have the same id", n, self)
			}
		}
	}
}

func TestClusterIDCoversTheConfiguration(t *testing.T) {
	base := bootstrap(t, cluster(t, 3, 1, "m")).ClusterID
	token := cluster(t, 3, 1, "m")
	token.InitialClusterToken = "other"
	for what, c := range map[string]*Config{
		"token": token, "nodes": cluster(t, 2, 1, "m"), "no split": cluster(t, 3, 1), "another split": cluster(t, 3, 1, "n"),
		"one more split": cluster(t, 3, 1, "m", "n"),
	} {
		if id := bootstrap(t, c).ClusterID; id == base {
			t.Errorf("%s: same cluster id %x", what, id)
		}
	}
}

func TestRangesTileTheKeys(t *testing.T) {
	b := bootstrap(t, cluster(t, 3, 2, "b", "m"))
	want := []string{
		"range 2 gen 1 [system:\"\",\"\")",
		"range 3 gen 1 [\"\",\"b\")",
		"range 4 gen 1 [\"b\",\"m\")",
		"range 5 gen 1 [\"m\",max)",
	}
	if b.Ranges[0].ID != ids.PlacementRange {
		t.Fatalf("first is %v", b.Ranges[0])
	}
	for i, d := range b.Ranges[1:] {
		if d.String() != want[i] {
			t.Errorf("got %s, want %s", d, want[i])
		}
	}
	placement, local := b.Local()
	if placement == nil || len(local) != 4 {
		t.Fatalf("node 2 of 3 has placement=%v and %d of 4 ranges", placement != nil, len(local))
	}
	for _, s := range local {
		if s.Replica != 2 || len(s.ConfState.GetVoters()) != 3 || s.HardState.GetCommit() < s.Applied.Index ||
			s.Truncated.Index != s.Last || s.Applied.Term != s.Truncated.Term {
			t.Errorf("bad initial state %+v", s)
		}
	}
}

func TestReplicasSpread(t *testing.T) {
	for _, n := range []int{4, 5, 7} {
		var splits []string
		for i := range 10*n - 1 {
			splits = append(splits, fmt.Sprintf("k%03d", i))
		}
		b := bootstrap(t, cluster(t, n, 1, splits...))
		replicas, first := map[ids.NodeID]int{}, map[ids.NodeID]int{}
		for _, d := range b.Ranges[2:] {
			if len(d.Replicas) != replicationFactor {
				t.Fatalf("%v has %d replicas", d, len(d.Replicas))
			}
			first[d.Replicas[0].Node]++
			for _, r := range d.Replicas {
				replicas[r.Node]++
			}
		}
		for _, node := range b.Nodes {
			if replicas[node.ID] != 30 || first[node.ID] != 10 {
				t.Errorf("%d nodes: %s has %d replicas and comes first in %d, want 30 and 10", n, node.Name, replicas[node.ID], first[node.ID])
			}
		}
		if got := len(b.Ranges[0].Replicas); got != min(n, 5) {
			t.Errorf("%d nodes: placement has %d replicas", n, got)
		}
	}
}
