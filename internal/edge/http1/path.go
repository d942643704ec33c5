package http1

import "bytes"

// cleanPath checks a path's percent-encoding and takes its dot segments out, in place (RFC 3986, 6.2.2): who matches the path
// and who serves it must see the same one. It refuses what a backend might take for a dot segment and another not, and what climbs above
// the root.
func (r *request) cleanPath() error {
	r.path, _, _ = bytes.Cut(r.target, []byte("?"))
	encoded := bytes.IndexByte(r.path, '%') >= 0
	if r.path[0] != '/' || !encoded && bytes.IndexByte(r.path, '\\') < 0 && !bytes.Contains(r.path, []byte("/.")) {
		return nil
	}
	if encoded {
		if err := checkEscapes(r.path); err != nil {
			return err
		}
	}
	clean, slash := r.target[:0], false // what is written never overtakes what is read
	for segment := range bytes.SplitSeq(r.path[1:], []byte("/")) {
		dots, hidden := dotSegment(segment)
		switch {
		case hidden:
			return malformed("the path has a dot segment behind an encoded slash, a backslash or before a semicolon")
		case dots == 0:
			clean = append(append(clean, '/'), segment...)
		case dots == 2:
			up := bytes.LastIndexByte(clean, '/')
			if up < 0 {
				return malformed("the path climbs above the root")
			}
			clean = clean[:up]
		}
		slash = dots > 0
	}
	if slash {
		clean = append(clean, '/')
	}
	size := len(clean)
	r.target = append(clean, r.target[len(r.path):]...)
	r.path = r.target[:size]
	return nil
}

// checkEscapes refuses percent signs that encode nothing, and an encoded NUL, which ends a path for some.
func checkEscapes(path []byte) error {
	for {
		at := bytes.IndexByte(path, '%')
		if at < 0 {
			return nil
		}
		path = path[at:]
		c, width := decode(path)
		if width == 1 {
			return malformed("a percent sign in the path is not followed by two hexadecimal digits")
		}
		if c == 0 {
			return malformed("the path has an encoded NUL")
		}
		path = path[width:]
	}
}

// decode returns the first character of a path, and how long it stands there.
func decode(path []byte) (c byte, width int) {
	if path[0] != '%' || len(path) < 3 {
		return path[0], 1
	}
	high, ok := hexDigit(path[1])
	low, ok2 := hexDigit(path[2])
	if !ok || !ok2 {
		return path[0], 1
	}
	return byte(high<<4 | low), 3
}

// dotSegment returns 1 for a segment that is ".", 2 for "..", 0 for any other; and whether it could be taken for several
// of which one is.
func dotSegment(segment []byte) (dots int, hidden bool) {
	several := false
	for len(segment) > 0 {
		c, width := decode(segment)
		segment = segment[width:]
		switch {
		case c == '/' || c == '\\' || c == ';':
			if dots == 1 || dots == 2 {
				return 0, true
			}
			several, dots = true, 0
		case c == '.' && dots >= 0:
			dots++
		default:
			dots = -1
		}
	}
	if dots != 1 && dots != 2 {
		return 0, false
	}
	if several {
		return 0, true
	}
	return dots, false
}
