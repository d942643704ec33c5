package ksl

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd    tokenKind = iota // of the file
	tokName                    // a keyword, type, field or value
	tokString                  // text is without quotes and escapes
	tokNumber
	tokMark // punctuation
)

const marks = "{}()<>[]:,?@="

type token struct {
	kind      tokenKind
	text      string
	line, col int // from 1
	width     int // characters
}

// String describes the token in a message.
func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end of the file"
	case tokString:
		return "the string " + strconv.Quote(t.text)
	default:
		return strconv.Quote(t.text)
	}
}

func (t token) isMark(mark string) bool { return t.kind == tokMark && t.text == mark }

func (t token) isName(name string) bool { return t.kind == tokName && t.text == name }

// comment is the text of one comment without its marker. own is true when nothing stands before it.
type comment struct {
	text string
	own  bool
}

// source is a schema's text cut into tokens. No token spans lines.
type source struct {
	file     string
	lines    []string
	tokens   []token         // the last is tokEnd
	comments map[int]comment // by line
	errs     Errors
}

func lex(file string, src []byte) *source {
	text := strings.ToValidUTF8(strings.TrimPrefix(string(src), "\uFEFF"), "\uFFFD")
	s := &source{file: file, lines: strings.Split(text, "\n"), comments: make(map[int]comment)}
	for i, line := range s.lines {
		s.lines[i] = strings.TrimSuffix(line, "\r")
		s.lexLine(i+1, []rune(s.lines[i]))
	}
	last := len(s.lines)
	s.tokens = append(s.tokens, token{line: last, col: len([]rune(s.lines[last-1])) + 1, width: 1})
	return s
}

func (s *source) lexLine(line int, r []rune) {
	first := len(s.tokens)
	for i := 0; i < len(r); {
		var end int
		switch c := r[i]; {
		case unicode.IsSpace(c):
			i++
			continue
		case c == '#', c == '/' && i+1 < len(r) && r[i+1] == '/':
			text := strings.TrimLeft(string(r[i:]), "#/")
			s.comments[line] = comment{strings.TrimSpace(text), len(s.tokens) == first}
			return
		case nameStart(c), foreignLetter(c):
			end = s.lexName(line, i, r)
		case digit(c), c == '-' && i+1 < len(r) && digit(r[i+1]):
			end = span(r, i+1, func(c rune) bool { return digit(c) || strings.ContainsRune(".eE+-", c) })
			s.add(tokNumber, line, i, r[i:end])
		case c == '"':
			end = s.lexString(line, i, r)
		case strings.ContainsRune(marks, c):
			end = i + 1
			s.add(tokMark, line, i, r[i:end])
		default:
			end = i + 1
			s.errorf(token{line: line, col: i + 1, width: 1}, "unexpected character %q", c)
			if c == ';' { // meant as a comma
				s.add(tokMark, line, i, []rune{','})
			}
		}
		i = end
	}
}

// lexName reads the word that starts at r[i], as people may mean it, and returns where it ends.
func (s *source) lexName(line, i int, r []rune) int {
	good := func(c rune) bool { return nameStart(c) || digit(c) }
	end := span(r, i, func(c rune) bool { return good(c) || foreignLetter(c) || c == '-' })
	s.add(tokName, line, i, r[i:end])
	if span(r[:end], i, good) < end {
		s.errorf(s.tokens[len(s.tokens)-1], "a name consists of the letters A to Z, digits and _; other text needs quotes")
	}
	return end
}

// lexString reads the string that starts at r[i] and returns where it ends.
func (s *source) lexString(line, i int, r []rune) int {
	end := i + 1
	for end < len(r) && r[end] != '"' {
		if r[end] == '\\' {
			end++
		}
		end++
	}
	tok := token{kind: tokString, line: line, col: i + 1, width: min(end, len(r)-1) - i + 1}
	if end >= len(r) {
		s.errorf(tok, "this string is not closed: expected a \" before the end of the line")
		s.tokens = append(s.tokens, tok)
		return len(r)
	}
	text, err := strconv.Unquote(string(r[i : end+1]))
	switch {
	case err != nil:
		s.errorf(tok, "this string has an escape that does not exist")
	case !utf8.ValidString(text):
		s.errorf(tok, "this string has an escape that makes it no UTF-8 text")
	}
	tok.text = text
	s.tokens = append(s.tokens, tok)
	return end + 1
}

func (s *source) add(kind tokenKind, line, i int, r []rune) {
	s.tokens = append(s.tokens, token{kind, string(r), line, i + 1, len(r)})
}

func (s *source) errorf(at token, format string, args ...any) {
	if n := len(s.errs); n >= maxErrors || n > 0 && s.errs[n-1].Line == at.line && s.errs[n-1].Col == at.col {
		return // enough is said, or this follows from what was said last
	}
	s.errs = append(s.errs, s.place(at).fault(fmt.Sprintf(format, args...)))
}

// place returns where a token stands.
func (s *source) place(t token) place {
	return place{file: s.file, source: s.lines[t.line-1], line: t.line, col: t.col, width: max(1, t.width)}
}

func nameStart(c rune) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// foreignLetter tells what may be part of a name in other languages only.
func foreignLetter(c rune) bool { return c == '$' || c >= utf8.RuneSelf && !unicode.IsSpace(c) }

func digit(c rune) bool { return '0' <= c && c <= '9' }

// span returns the end of the run of characters from r[i] that are in.
func span(r []rune, i int, in func(rune) bool) int {
	for i < len(r) && in(r[i]) {
		i++
	}
	return i
}
