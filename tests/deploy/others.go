package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// composed loads the file as docker compose does, schema and all.
func composed(file string) (string, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithName("deploy-check"))
	if err != nil {
		return "", err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return "", err
	}
	var wrong []error
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Type == "bind" {
				if _, err := os.Stat(volume.Source); err != nil {
					wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
				}
			}
		}
		if !strings.HasPrefix(service.Image, "sidelane") {
			continue
		}
		if !service.ReadOnly || service.User != "65532:65532" || len(service.CapDrop) != 1 {
			wrong = append(wrong, fmt.Errorf("%s: it may do more than it needs", name))
		}
		if len(service.Ports) > 0 {
			wrong = append(wrong, fmt.Errorf("%s: it can be reached from outside", name))
		}
		if name != "control" && name != "enrol" {
			wrong = append(wrong, ofNode(project, name, service)...)
		}
	}
	return fmt.Sprintf("%d services", len(project.Services)), errors.Join(wrong...)
}

// ofNode says what is wrong with a node's network, or with its app or sidecar, which are in it.
func ofNode(project *types.Project, name string, service types.ServiceConfig) (wrong []error) {
	for _, part := range []string{"-app", "-sidecar"} {
		if node, within := strings.CutSuffix(name, part); within {
			if service.NetworkMode != "service:"+node {
				wrong = append(wrong, fmt.Errorf("%s: it is not in the network of %s", name, node))
			}
			return wrong
		}
	}
	// What ends takes the network along, and leaves those that are in it without one.
	if !slices.Equal(service.Command, []string{"pause"}) {
		wrong = append(wrong, fmt.Errorf("%s: it does more than hold the network", name))
	}
	for _, part := range []string{"-app", "-sidecar"} {
		if _, there := project.Services[name+part]; !there {
			wrong = append(wrong, fmt.Errorf("%s: it has no %s", name, part[1:]))
		}
	}
	return wrong
}

// alerts reads the rules as Prometheus does, templates and all.
func alerts(file string) (string, error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	count := 0
	for _, group := range groups.Groups {
		count += len(group.Rules)
	}
	return fmt.Sprintf("%d rules", count), nil
}

// queries parses what the panels of a dashboard ask.
func queries(file string) (string, error) {
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return "", err
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return "", err
	}
	// Grafana's variables, as it fills them in.
	variables := strings.NewReplacer("$service", ".*", "$__rate_interval", "1m")
	read := parser.NewParser(parser.Options{})
	count := 0
	var wrong []error
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			count++
			if _, err := read.ParseExpr(variables.Replace(target.Expr)); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", panel.Title, err))
			}
		}
	}
	if count == 0 {
		return "", errors.New("no panel asks anything")
	}
	return fmt.Sprintf("%d queries", count), errors.Join(wrong...)
}
