package setting

import (
	"errors"
	"fmt"
	"os"
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
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		p.Addf(by, "reading %s: %w", file, err)
		return p
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		p.Addf(by, "%s line %d: a line must be a setting and its value, such as server-port: 8080", file, root.Line)
		return p
	}
	given := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if err := t.setKey(key.Value, by, value, given); err != nil {
			p = append(p, fmt.Errorf("%s in %s line %d: %w", key.Value, file, key.Line, err))
		}
	}
	return p
}

// setKey sets what one key of the file says, unless a flag or a variable did.
func (t Table) setKey(name, by string, value *yaml.Node, given map[string]bool) error {
	s := t.find(name)
	switch {
	case name == by:
		return errors.New("the file cannot name itself")
	case s == nil:
		return fmt.Errorf("no such setting%s", DidYouMean("", flagName(name), t.names()))
	case given[name]:
		return errors.New("it is there twice")
	}
	given[name] = true
	texts, err := scalars(value)
	if err != nil || texts == nil || s.IsSet() {
		return err
	}
	return s.set(strings.Join(texts, ","), "the settings file")
}

// scalars returns a value of the file as it would be after the flag: the text of the source, not what YAML takes it
// for, since a number with a leading zero or of many digits would be another one. A list is the texts in it. A
// null, as is left when all of a list is commented out, is nothing: the setting is not set.
func scalars(node *yaml.Node) ([]string, error) {
	node = target(node)
	if isNull(node) {
		return nil, nil
	}
	parts := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		parts = node.Content
	}
	texts := []string{}
	for _, part := range parts {
		if part = target(part); part.Kind != yaml.ScalarNode || isNull(part) {
			return nil, errors.New("neither a value nor a list of values")
		}
		texts = append(texts, part.Value)
	}
	return texts, nil
}

// target is what an alias stands for.
func target(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }
