// What stands in deploy/, judged by the code that will read it: the manifests by the API server's own
// decoders, defaults and validation and by the Pod Security Standards, the compose file by compose's
// loader, and the alert rules by Prometheus's.
//
//	deploy-check REPOSITORY
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: deploy-check REPOSITORY")
		os.Exit(2)
	}
	folder := filepath.Join(os.Args[1], "deploy")
	checks := []struct {
		what  string
		check func(folder string) (string, error)
	}{
		{"kubernetes/control", kubernetes},
		{"kubernetes/shop", kubernetes},
		{"compose/docker-compose.yaml", composed},
		{"prometheus/alerts.yaml", alerts},
		{"grafana/sidelane.json", queries},
	}
	failed := false
	for _, one := range checks {
		found, err := one.check(filepath.Join(folder, one.what))
		if err != nil {
			failed = true
			found = "WRONG: " + err.Error()
		}
		fmt.Printf("deploy/%s: %s\n", one.what, found)
	}
	if failed {
		os.Exit(1)
	}
}
