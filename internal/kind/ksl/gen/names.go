package gen

import (
	"strings"
	"unicode"
)

// initialisms are written in capitals in Go names.
var initialisms = map[string]bool{
	"api": true, "ca": true, "cidr": true, "cpu": true, "dns": true, "gpu": true, "grpc": true, "http": true, "https": true, "id": true,
	"io": true, "ip": true, "json": true, "mac": true, "oci": true, "oidc": true, "oom": true, "os": true, "pid": true,
	"rps": true, "sdk": true, "ssh": true, "tcp": true, "tls": true, "ttl": true, "udp": true, "uid": true, "uri": true,
	"url": true, "uuid": true, "vm": true, "yaml": true,
}

// goName turns a name of the schema, in snake_case or camelCase, into an exported Go name.
func goName(name string) string {
	var b strings.Builder
	for _, word := range words(name) {
		if lower := strings.ToLower(word); initialisms[lower] {
			b.WriteString(strings.ToUpper(word))
		} else {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	if b.Len() == 0 || unicode.IsDigit(rune(b.String()[0])) {
		return "X" + b.String()
	}
	return b.String()
}

// words splits a name at underscores, before a capital that follows a small letter or a digit, and before the
// last capital of a run that a small letter follows: maxCPUPercent is max, CPU, Percent.
func words(name string) []string {
	var words []string
	for part := range strings.SplitSeq(name, "_") {
		start := 0
		for i := 1; i < len(part); i++ {
			capital := upper(part[i])
			follows := capital && !upper(part[i-1])
			precedes := capital && i+1 < len(part) && lower(part[i+1]) && upper(part[i-1])
			if follows || precedes {
				words = append(words, part[start:i])
				start = i
			}
		}
		if part != "" {
			words = append(words, part[start:])
		}
	}
	return words
}

func upper(c byte) bool { return 'A' <= c && c <= 'Z' }

func lower(c byte) bool { return 'a' <= c && c <= 'z' }

// plural makes the name of a table from that of a record type.
func plural(name string) string {
	name = strings.TrimSuffix(name, "Record")
	switch {
	case strings.HasSuffix(name, "s"):
		return name
	case strings.HasSuffix(name, "y") && len(name) > 1 && !strings.ContainsRune("aeiou", rune(name[len(name)-2])):
		return name[:len(name)-1] + "ies"
	case strings.HasSuffix(name, "x"), strings.HasSuffix(name, "ch"), strings.HasSuffix(name, "sh"):
		return name + "es"
	default:
		return name + "s"
	}
}
