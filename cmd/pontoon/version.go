package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	etcdversion "go.etcd.io/etcd/api/v3/version"
)

// version is the release this tree becomes.
const version = "0.1.0-dev"

type versionInfo struct {
	Version  string `json:"version"`
	EtcdAPI  string `json:"etcdAPI"` // of etcd's release whose API is served
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version, and the etcd release whose API it serves",
		Example: "  pontoon version\n  pontoon version -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return printVersion(cmd.OutOrStdout(), output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printVersion(w io.Writer, output string) error {
	v := versionInfo{Version: version, EtcdAPI: etcdversion.APIVersion, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "text":
		fmt.Fprintf(w, "pontoon Version: %s\netcd API: %s\n", v.Version, v.EtcdAPI)
		if v.Revision != "" {
			fmt.Fprintf(w, "Git SHA: %s\n", v.Revision)
		}
		_, err := fmt.Fprintf(w, "Go Version: %s\nGo OS/Arch: %s\n", v.Go, v.Platform)
		return err
	}
	return &usageError{fmt.Errorf("--output: %q is none; use text or json", output)}
}
