package router

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// handleOps adds the paths that operators and load balancers ask.
func (s *Server) handleOps(mux *http.ServeMux) {
	mux.HandleFunc("/health", getOnly(s.serveHealth))
	serial := check{"serializable_read", func(ctx context.Context) error { return s.probe(ctx, true) }}
	s.handleChecks(mux, "/livez", []check{serial})
	s.handleChecks(mux, "/readyz", []check{
		{"data_corruption", func(context.Context) error {
			for _, a := range s.rt.cluster.Alarms() {
				if a.Alarm == pb.AlarmType_CORRUPT {
					return fmt.Errorf("alarm activated: %s", a.Alarm)
				}
			}
			return nil
		}},
		serial,
		{"linearizable_read", func(ctx context.Context) error { return s.probe(ctx, false) }},
		{"non_learner", func(context.Context) error { return nil }}, // nodes are never learners
	})
	mux.HandleFunc("/version", getOnly(serveVersion))
	for path, h := range s.cfg.Handlers {
		mux.Handle(path, h)
	}
}

func getOnly(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		h(w, r)
	}
}

// probe reads one key that most likely is not there.
func (s *Server) probe(ctx context.Context, serializable bool) error {
	_, err := s.rt.read(ctx, &pb.RangeRequest{Key: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable})
	return err
}

// serveHealth answers as etcd does: alarms, a leader, a read. ?exclude=ALARM and ?serializable=true narrow it.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	reason := s.unhealthy(r)
	body, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		s.log.Warn("/health is false", zap.String("reason", reason))
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(body)
}

// unhealthy says why the node is not healthy; nothing if it is.
func (s *Server) unhealthy(r *http.Request) string {
	query := r.URL.Query()
	excluded := querySet(r, "exclude")
	for _, a := range s.rt.cluster.Alarms() {
		if !excluded[a.Alarm.String()] {
			return "ALARM " + a.Alarm.String()
		}
	}
	serializable := query.Get("serializable") == "true"
	if !serializable && s.rt.cluster.Raft().Leader == 0 {
		return "RAFT NO LEADER"
	}
	if err := s.probe(r.Context(), serializable); err != nil {
		return fmt.Sprintf("RANGE ERROR:%s", err)
	}
	return ""
}

func querySet(r *http.Request, key string) map[string]bool {
	set := make(map[string]bool)
	for _, v := range r.URL.Query()[key] {
		if v != "" {
			set[v] = true
		}
	}
	return set
}

// check is one named condition.
type check struct {
	name string
	run  func(context.Context) error
}

// handleChecks serves a set of checks at a path, and each by itself below it. ?exclude=NAME leaves some out, ?verbose
// lists them.
func (s *Server) handleChecks(mux *http.ServeMux, path string, checks []check) {
	mux.HandleFunc(path, getOnly(func(w http.ResponseWriter, r *http.Request) {
		excluded := querySet(r, "exclude")
		var some []check
		for _, c := range checks {
			if !excluded[c.name] {
				some = append(some, c)
			}
		}
		s.serveChecks(w, r, path, some)
	}))
	for _, c := range checks {
		sub := path + "/" + c.name
		mux.HandleFunc(sub, getOnly(func(w http.ResponseWriter, r *http.Request) {
			s.serveChecks(w, r, sub, []check{c})
		}))
	}
}

func (s *Server) serveChecks(w http.ResponseWriter, r *http.Request, path string, checks []check) {
	var list bytes.Buffer
	failed := false
	for _, c := range checks {
		if err := c.run(r.Context()); err != nil {
			failed = true
			fmt.Fprintf(&list, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&list, "[+]%s ok\n", c.name)
		}
	}
	if failed {
		s.log.Warn("health check failed", zap.String("path", path), zap.String("reason", list.String()))
		http.Error(w, list.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		_, _ = w.Write(list.Bytes())
	}
	fmt.Fprint(w, "ok\n")
}

// serveVersion answers with the versions of etcd's API and files that this is compatible with.
func serveVersion(w http.ResponseWriter, _ *http.Request) {
	body, _ := json.Marshal(version.Versions{
		Server: version.Version, Cluster: version.Cluster(version.Version) + ".0", Storage: storageVersion,
	})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
