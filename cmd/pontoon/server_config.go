package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pontoon-kv/pontoon/cmd/pontoon/node"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"sigs.k8s.io/yaml"
)

// envPrefixes are tried in this order: PONTOON_DATA_DIR wins over ETCD_DATA_DIR.
var envPrefixes = [...]string{"PONTOON_", "ETCD_"}

// resolve turns the parsed command line, the environment and the configuration file into complete options, and returns
// what the user should be told about them. As in etcd, a configuration file makes flags and environment count for
// nothing; otherwise flags win over the environment.
func (o *serverOptions) resolve(environ []string) (_ *serverOptions, warnings []string, err error) {
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	path := o.configFile
	for _, p := range envPrefixes {
		if path == "" {
			path = env[p+"CONFIG_FILE"]
		}
	}
	if path != "" {
		shadowed := slices.DeleteFunc(o.changed(), func(name string) bool { return name == "config-file" })
		o = newServerOptions() // what flags said must not show through
		if warnings, err = o.readFile(path); err != nil {
			return nil, nil, err
		}
		if len(shadowed) > 0 {
			warnings = append(warnings, fmt.Sprintf("--%s: not looked at because of --config-file", strings.Join(shadowed, ", --")))
		}
	} else if warnings, err = o.readEnv(env); err != nil {
		return nil, nil, err
	}
	inert, err := o.checkInert()
	if err != nil {
		return nil, nil, err
	}
	return o, append(warnings, inert...), o.finish(path != "")
}

// changed lists the flags that were set, by name.
func (o *serverOptions) changed() (names []string) {
	o.flags.Visit(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

func (o *serverOptions) readEnv(env map[string]string) (warnings []string, err error) {
	used := map[string]bool{}
	o.flags.VisitAll(func(f *pflag.Flag) {
		fromFlag := f.Changed
		for _, prefix := range envPrefixes {
			key := prefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			val := env[key]
			used[key] = true
			if val == "" || err != nil {
				continue
			}
			if f.Changed {
				if fromFlag {
					warnings = append(warnings, fmt.Sprintf("%s: not looked at because --%s is set", key, f.Name))
				}
				continue
			}
			if serr := o.set(f.Name, val); serr != nil {
				err = fmt.Errorf("%s=%q: %w", key, val, serr)
			}
		}
	})
	for key := range env {
		if !used[key] && slices.ContainsFunc(envPrefixes[:], func(p string) bool { return strings.HasPrefix(key, p) }) {
			warnings = append(warnings, key+": an environment variable that no flag belongs to")
		}
	}
	slices.Sort(warnings)
	return warnings, err
}

// set is pflag's Set, without its repetition of the flag's name in errors.
func (o *serverOptions) set(name, value string) error {
	f := o.flags.Lookup(name)
	if err := f.Value.Set(value); err != nil {
		return err
	}
	if !f.Changed {
		return o.flags.Set(name, value) // again, which marks it as changed
	}
	return nil
}

// nestedKeys are the sections of etcd's file, and the flag that each of their keys stands for.
var nestedKeys = map[string]func(key string) string{
	"client-transport-security": func(key string) string {
		if key == "allowed-hostname" {
			return "client-cert-allowed-hostname"
		}
		return key
	},
	"peer-transport-security": func(key string) string {
		switch key {
		case "allowed-hostname", "allowed-cn":
			return "peer-cert-" + key
		}
		return "peer-" + key
	},
	"socket-options": func(key string) string {
		switch key {
		case "reuse-port", "ReusePort":
			return "socket-reuse-port"
		case "reuse-address", "ReuseAddress":
			return "socket-reuse-address"
		}
		return key
	},
	"discovery-config": func(key string) string { return "discovery-" + key },
}

// readFile reads etcd's YAML: the flags' names as keys, but for the nested sections; durations in nanoseconds.
func (o *serverOptions) readFile(path string) (warnings []string, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config-file: %w", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(raw, &values, asNumbers); err != nil {
		return nil, fmt.Errorf("--config-file: %s is not YAML: %w", path, err)
	}
	flat := map[string]any{}
	for key, v := range values {
		section, ok := v.(map[string]any)
		rename := nestedKeys[key]
		switch {
		case rename == nil:
			flat[key] = v
		case ok:
			for k, v := range section {
				flat[rename(k)] = v
			}
		case v != nil:
			return nil, fmt.Errorf("--config-file: %s: %s is not a section with keys of its own", path, key)
		}
	}
	for key, v := range flat {
		f := o.flags.Lookup(key)
		if f == nil || key == "config-file" || key == "version" {
			warnings = append(warnings, fmt.Sprintf("%s: %s: a key that no setting belongs to", path, key))
			continue
		}
		text, err := fileValue(f, v)
		if err == nil && text != "" {
			err = o.set(key, text)
		}
		if err != nil {
			return nil, fmt.Errorf("--config-file: %s: %s: %w", path, key, err)
		}
	}
	slices.Sort(warnings)
	return warnings, nil
}

// asNumbers keeps integers exact: nanoseconds do not fit a float.
func asNumbers(d *json.Decoder) *json.Decoder {
	d.UseNumber()
	return d
}

// fileValue prints a YAML value as the flag takes it.
func fileValue(f *pflag.Flag, v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = fmt.Sprint(v[i])
		}
		return strings.Join(parts, ","), nil
	case fmt.Stringer: // json.Number
		if f.Value.Type() == "duration" {
			ns, err := strconv.ParseInt(v.String(), 10, 64)
			if err != nil {
				return "", fmt.Errorf("%v is not a number of nanoseconds", v)
			}
			return time.Duration(ns).String(), nil
		}
		return v.String(), nil
	}
	return "", fmt.Errorf("%v is not a value for it", v)
}

// checkInert reports the flags that were set and do nothing.
func (o *serverOptions) checkInert() (warnings []string, err error) {
	for _, f := range inertFlags {
		if !o.flags.Changed(f.name) {
			continue
		}
		asked := o.flags.Lookup(f.name).Value.String()
		switch {
		case f.silent != "" && asked == f.silent:
		case f.refuse:
			return nil, fmt.Errorf("--%s: %s", f.name, f.why)
		default:
			warnings = append(warnings, fmt.Sprintf("--%s does nothing: %s", f.name, f.why))
		}
	}
	return warnings, nil
}

// finish works out what depends on several settings, and validates the whole.
func (o *serverOptions) finish(fromFile bool) (err error) {
	c := &o.cfg
	if c.DataDir == "" {
		c.DataDir = c.Name + ".pontoon"
	}
	// As in etcd: who says where to listen has to say where clients go, too.
	if !fromFile && o.flags.Changed("listen-client-urls") && !o.flags.Changed("advertise-client-urls") {
		c.AdvertiseClientURLs = nil
	}
	c.ListenMetricsURLs = append(c.ListenMetricsURLs, o.httpURLs...)
	if o.cluster == "" {
		c.SetInitialClusterFromSelf()
	} else if c.InitialCluster, err = node.ParseInitialCluster(o.cluster); err != nil {
		return err
	}
	if err := o.finishTLS(); err != nil {
		return err
	}
	return c.Validate()
}

func (o *serverOptions) finishTLS() error {
	suites, err := tlsutil.GetCipherSuites(o.tls.cipherSuites)
	if err != nil {
		return fmt.Errorf("--cipher-suites: %w", err)
	}
	least, err := tlsutil.GetTLSVersion(o.tls.min)
	if err != nil {
		return fmt.Errorf("--tls-min-version: %w; use TLS1.2 or TLS1.3", err)
	}
	most, err := tlsutil.GetTLSVersion(o.tls.max)
	if err != nil {
		return fmt.Errorf("--tls-max-version: %w; use TLS1.2 or TLS1.3", err)
	}
	if most != 0 && least > most {
		return fmt.Errorf("--tls-min-version: %s is above --tls-max-version %s; lower it or raise the other", o.tls.min, o.tls.max)
	}
	for _, t := range []*transport.TLSInfo{&o.cfg.ClientTLS, &o.cfg.PeerTLS} {
		t.CipherSuites, t.MinVersion, t.MaxVersion = suites, least, most
	}
	return nil
}
