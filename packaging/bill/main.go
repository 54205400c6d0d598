// Command bill says in a bill of materials (CycloneDX, JSON) under which licenses each component is. What makes the bill
// looks into the executable, where no licenses are; this takes them from the texts that go with the program:
// bill BILL LICENSES OWN changes the file BILL, with licenses.txt and the license of the program itself.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "bill: say bill BILL LICENSES OWN")
		os.Exit(1)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "bill:", err)
		os.Exit(1)
	}
}

func run(bill, licenses, own string) error {
	var texts [3][]byte
	for i, file := range []string{bill, licenses, own} {
		var err error
		if texts[i], err = os.ReadFile(file); err != nil {
			return err
		}
	}
	out, err := complete(texts[0], parts(string(texts[1])), names(string(texts[2])))
	if err != nil {
		return fmt.Errorf("%s: %w", bill, err)
	}
	return os.WriteFile(bill, out, 0o644)
}

// licensed are the licenses of modules, by their SPDX names.
type licensed map[string][]string

// part begins the text of a module in licenses.txt.
var part = regexp.MustCompile(`(?m)^==== (.*): [^:\n]+\n`)

// parts reads licenses.txt.
func parts(text string) licensed {
	found := licensed{}
	begins := part.FindAllStringSubmatchIndex(text, -1)
	for i, at := range begins {
		end := len(text)
		if i+1 < len(begins) {
			end = begins[i+1][0]
		}
		module := text[at[2]:at[3]]
		for _, name := range names(text[at[1]:end]) {
			if !slices.Contains(found[module], name) {
				found[module] = append(found[module], name)
			}
		}
	}
	return found
}

// signs are phrases that a license has and others do not. BSD's are told apart by the clause that one of them lacks.
var signs = []struct{ name, has, lacks string }{
	{"Apache-2.0", "Apache License,? Version 2.0", ""},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce", "(?i)neither the names? of"},
	{"BSD-3-Clause", "Redistributions in binary form must reproduce.*(?i:neither the names? of)", ""},
	{"CC0-1.0", "CC0 1.0 Universal", ""},
	{"ISC", "Permission to use, copy, modify, and(/or)? distribute this software for any purpose", ""},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy", ""},
	{"MPL-2.0", "Mozilla Public License,? [Vv]ersion 2.0", ""},
}

var space = regexp.MustCompile(`[\s*#/]+`)

// names returns the licenses that a text has.
func names(text string) []string {
	text = space.ReplaceAllString(text, " ")
	var found []string
	for _, sign := range signs {
		if regexp.MustCompile(sign.has).MatchString(text) && (sign.lacks == "" || !regexp.MustCompile(sign.lacks).MatchString(text)) {
			found = append(found, sign.name)
		}
	}
	return found
}

// complete adds the licenses to the bill. A module of the program's own directory is under the program's license.
func complete(bill []byte, modules licensed, own []string) ([]byte, error) {
	var document map[string]any
	if err := json.Unmarshal(bill, &document); err != nil {
		return nil, err
	}
	metadata, _ := document["metadata"].(map[string]any)
	program, _ := metadata["component"].(map[string]any)
	components, _ := document["components"].([]any)
	if program == nil || len(components) == 0 {
		return nil, errors.New("no bill of materials of a program")
	}
	program["licenses"] = expression(own)
	var unknown []string
	for _, c := range components {
		component, _ := c.(map[string]any)
		name, _ := component["name"].(string)
		version, _ := component["version"].(string)
		licenses := modules[name+" "+version]
		switch {
		case strings.HasPrefix(name, "./"):
			licenses = own
		case name == "std":
			licenses = modules["Go standard library"]
		}
		if len(licenses) == 0 {
			unknown = append(unknown, name+" "+version)
		}
		component["licenses"] = expression(licenses)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no license is known of %s", strings.Join(unknown, ", "))
	}
	return json.MarshalIndent(document, "", "  ")
}

// expression is how CycloneDX names licenses that all hold.
func expression(names []string) []any {
	if len(names) == 1 {
		return []any{map[string]any{"license": map[string]any{"id": names[0]}}}
	}
	return []any{map[string]any{"expression": strings.Join(names, " AND ")}}
}
