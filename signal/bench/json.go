package bench

import "bytes"

// eachField calls each with every name and value of a JSON object, both as they are on the wire, the
// names without quotes. It checks no more than it needs for that, since it runs for every message, and reports
// whether text is an object as far as it can tell.
func eachField(text []byte, each func(name, value []byte)) bool {
	rest := skipSpace(text)
	if len(rest) == 0 || rest[0] != '{' {
		return false
	}
	for rest = skipSpace(rest[1:]); len(rest) > 0 && rest[0] == '"'; rest = skipSpace(rest[1:]) {
		n := valueLen(rest)
		name := unquoted(rest[:n])
		rest = skipSpace(rest[n:])
		if len(rest) == 0 || rest[0] != ':' {
			return false
		}
		rest = skipSpace(rest[1:])
		n = valueLen(rest)
		if n == 0 {
			return false
		}
		each(name, rest[:n])
		rest = skipSpace(rest[n:])
		if len(rest) == 0 || rest[0] != ',' {
			break
		}
	}
	return len(rest) > 0 && rest[0] == '}' && len(skipSpace(rest[1:])) == 0
}

// valueLen returns the length of the JSON value at the beginning of text, 0 when there is none whole.
func valueLen(text []byte) int {
	if len(text) == 0 {
		return 0
	}
	switch text[0] {
	case '"':
		return stringLen(text)
	case '{', '[':
		return nestedLen(text)
	}
	n := bytes.IndexAny(text, ",}] \t\r\n")
	return max(n, 0)
}

// stringLen returns the length of a string with its quotes, 0 when its end is missing.
func stringLen(text []byte) int {
	for n := 1; n < len(text); n++ {
		next := bytes.IndexByte(text[n:], '"')
		if next < 0 {
			return 0
		}
		n += next
		if escapes := n - len(bytes.TrimRight(text[:n], `\`)); escapes%2 == 0 {
			return n + 1
		}
	}
	return 0
}

// nestedLen returns the length of an object or array, 0 when its end is missing.
func nestedLen(text []byte) int {
	depth := 0
	for n := 0; n < len(text); n++ {
		switch text[n] {
		case '"':
			k := stringLen(text[n:])
			if k == 0 {
				return 0
			}
			n += k - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return n + 1
			}
		}
	}
	return 0
}

func skipSpace(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t' || text[0] == '\r' || text[0] == '\n') {
		text = text[1:]
	}
	return text
}

// unquoted returns a string without its quotes and other values as they are.
func unquoted(value []byte) []byte {
	if len(value) >= 2 && value[0] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}
