package setting

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ReadFile sets from a YAML file, unless its name is empty, what neither a flag nor a variable has set.
// Its keys are the names of the settings; by is the setting that names the file, which cannot be in it.
func (t Table) ReadFile(by, file string) Problems {
	if file == "" {
		return nil
	}
	var p Problems
	text, err := os.ReadFile(file)
	if err != nil {
		p.Add(by, err)
		return p
	}
	var values map[string]yaml.Node
	if err := yaml.Unmarshal(text, &values); err != nil {
		p.Addf(by, "reading %s: %w", file, err)
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		s := t.find(name)
		switch {
		case s == nil || name == by:
			p = append(p, fmt.Errorf("%s in %s: no such setting", name, file))
		case s.IsSet():
		default:
			if err := s.setNode(values[name]); err != nil {
				p = append(p, fmt.Errorf("%s in %s: %w", name, file, err))
			}
		}
	}
	return p
}

// setNode takes over a value of the file, which is as it would be after the flag, or a list of such.
func (s *Setting) setNode(node yaml.Node) error {
	parts := []*yaml.Node{&node}
	if node.Kind == yaml.SequenceNode {
		parts = node.Content
	}
	var texts []string
	for _, part := range parts {
		if part.Kind == yaml.AliasNode {
			part = part.Alias
		}
		if part.Kind != yaml.ScalarNode || part.Tag == "!!null" {
			return errors.New("neither a value nor a list of values")
		}
		texts = append(texts, part.Value)
	}
	return s.set(strings.Join(texts, ","))
}
