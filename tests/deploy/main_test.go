package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong must be found: each case changes one thing of one file.
func TestWhatIsWrongIsFound(t *testing.T) {
	cases := []struct {
		file, from, to string
		check          func(string) (string, error)
		checked, says  string
	}{
		{"kubernetes/control/control.yaml", "serviceName: control", "serviceNam: control", kubernetes, "kubernetes/control", "unknown field"},
		{"kubernetes/control/control.yaml", "path: /livez, port: admin", "path: /livez, port: 0", kubernetes, "kubernetes/control", "between 1 and 65535"},
		{"kubernetes/control/control.yaml", "matchLabels: {app: sidelane-control}", "matchLabels: {app: other}", kubernetes, "kubernetes/control", "`selector` does not match"},
		{"kubernetes/control/control.yaml", "readinessProbe:", "readinessProb:", kubernetes, "kubernetes/control", "unknown field"},
		{"kubernetes/control/control.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", kubernetes, "kubernetes/control", "can be written"},
		{"kubernetes/sidecar/sidecar.yaml", "restartPolicy: Always", "restartPolicy: Never", kubernetes, "kubernetes/shop", "does not stay"},
		{"kubernetes/sidecar/sidecar.yaml", "drop: [ALL]", "drop: []", kubernetes, "kubernetes/shop", "capabilities"},
		{"kubernetes/sidecar/sidecar.yaml", "name: sidelane-token, mountPath", "name: sidelane-tokens, mountPath", kubernetes, "kubernetes/shop", "volumeMounts"},
		{"kubernetes/shop/orders.yaml", "serviceAccountName: orders", "serviceAccountName: default", kubernetes, "kubernetes/shop", "no account of its own"},
		{"kubernetes/shop/orders.yaml", "type: RuntimeDefault", "type: Unconfined", kubernetes, "kubernetes/shop", "seccomp"},
		{"compose/docker-compose.yaml", "network_mode: service:orders-1", "network_mode: service:orders-2", composed, "compose/docker-compose.yaml", "not in the network of orders-1"},
		{"compose/docker-compose.yaml", "command: [pause]", "command: [demo]", composed, "compose/docker-compose.yaml", "more than hold the network"},
		{"compose/docker-compose.yaml", "  log-1-sidecar:", "  log-2-sidecar:", composed, "compose/docker-compose.yaml", "log-1: it has no sidecar"},
		{"compose/docker-compose.yaml", "  read_only: true", "  read_only: false", composed, "compose/docker-compose.yaml", "more than it needs"},
		{"compose/docker-compose.yaml", "    restart: \"no\"", "    restarts: \"no\"", composed, "compose/docker-compose.yaml", "restarts"},
		{"compose/docker-compose.yaml", "./prometheus.yaml:", "./prometheus.yml:", composed, "compose/docker-compose.yaml", "prometheus.yml"},
		{"prometheus/alerts.yaml", "sidelane_rules_refused_now > 0", "sidelane_rules_refused_now >", alerts, "prometheus/alerts.yaml", "parse error"},
		{"prometheus/alerts.yaml", "humanizeDuration", "humaniseDuration", alerts, "prometheus/alerts.yaml", "humaniseDuration"},
		{"grafana/sidelane.json", "sum(up{", "sum(up{{", queries, "grafana/sidelane.json", "parse error"},
	}
	for _, one := range cases {
		t.Run(one.file+" "+one.to, func(t *testing.T) {
			folder := t.TempDir()
			if err := os.CopyFS(folder, os.DirFS("../../deploy")); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(folder, one.file)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), one.from) {
				t.Fatalf("%q is not there to be changed", one.from)
			}
			changed := strings.Replace(string(text), one.from, one.to, 1)
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = one.check(filepath.Join(folder, one.checked))
			if err == nil || !strings.Contains(err.Error(), one.says) {
				t.Errorf("said of it: %v", err)
			}
		})
	}
}
