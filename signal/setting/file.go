package setting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

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
	doc, err := parse(text)
	if err != nil {
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

// parse reads the one document of a file.
func parse(text []byte) (doc yaml.Node, err error) {
	if !utf8.Valid(text) {
		return doc, errors.New("it is not UTF-8: save it as that")
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return doc, nil
	} else if err != nil {
		return doc, fmt.Errorf("%w: indent with spaces, not tabs, and put values that have any of *&!%%@#{}[]:' and the like in them in quotation marks", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return doc, errors.New("what comes after --- is a document of its own: leave that line out")
	}
	return doc, nil
}

// setKey sets what one key of the file says, unless a flag or a variable did.
func (t Table) setKey(name, by string, value *yaml.Node, given map[string]bool) error {
	s := t.find(name)
	switch {
	case name == by:
		return errors.New("the file cannot name itself")
	case s == nil && target(value).Kind == yaml.MappingNode && len(target(value).Content) > 0:
		return fmt.Errorf("no such setting: none is within another, write the whole name, as in %s-%s: VALUE", name, target(value).Content[0].Value)
	case s == nil:
		return fmt.Errorf("no such setting%s", DidYouMean("", flagName(name), t.names()))
	case given[name]:
		return errors.New("it is there twice")
	}
	given[name] = true
	if _, many := s.Value.(*list); !many && target(value).Kind == yaml.SequenceNode {
		return errors.New("it has one value, not a list of them")
	}
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
