package cli

import (
	"regexp"
	"strings"
)

// kslWords finds what is coloured in KSL: comments, strings, attributes, keywords, and names of types.
var kslWords = regexp.MustCompile(`(#|//).*|"(?:[^"\\]|\\.)*"|@\w+|\b(?:type|enum)\b|\b[A-Z]\w*\b`)

// ksl colours a schema.
func (s style) ksl(text string) string {
	if !s.on {
		return text
	}
	return kslWords.ReplaceAllStringFunc(text, func(word string) string {
		switch {
		case strings.HasPrefix(word, "#"), strings.HasPrefix(word, "//"):
			return s.dim(word)
		case word[0] == '"':
			return s.good(word)
		case word[0] == '@':
			return s.warn(word)
		case word == "type", word == "enum":
			return s.bold(word)
		default:
			return s.busy(word)
		}
	})
}
