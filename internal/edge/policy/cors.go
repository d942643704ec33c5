package policy

import (
	"strings"

	"vortex"
)

// cors lets scripts of other origins ask (the CORS protocol of the Fetch standard).
type cors struct {
	any     bool // "*": without credentials, so nothing depends on who asks
	origins []string
	lines   string // what every answer to an allowed origin has besides it
	answer  string // what the answer to a preflight has on top
	anyHead bool   // any header may be sent: what is asked for is granted
}

func compileCORS(from *vortex.Cors) *cors {
	if from == nil {
		return nil
	}
	c := &cors{}
	for _, origin := range from.Origins {
		c.any = c.any || origin == "*"
		c.origins = append(c.origins, strings.ToLower(origin))
	}
	if truth(from.Credentials, false) {
		c.lines += "Access-Control-Allow-Credentials: true\r\n"
		c.any = false // browsers would not take it
	}
	if len(from.Expose) > 0 {
		c.lines += "Access-Control-Expose-Headers: " + strings.Join(from.Expose, ", ") + "\r\n"
	}
	methods := from.Methods
	if len(methods) == 0 {
		methods = []string{"GET", "HEAD", "POST"}
	}
	c.answer = "Access-Control-Allow-Methods: " + strings.Join(methods, ", ") + "\r\n"
	for _, name := range from.Headers {
		c.anyHead = c.anyHead || name == "*"
	}
	if len(from.Headers) > 0 && !c.anyHead {
		c.answer += "Access-Control-Allow-Headers: " + strings.Join(from.Headers, ", ") + "\r\n"
	}
	if from.MaxAge > 0 {
		c.answer += "Access-Control-Max-Age: " + string(appendInt(nil, int64(from.MaxAge.Std().Seconds()))) + "\r\n"
	}
	return c
}

// allows reports whether scripts of an origin may ask.
func (c *cors) allows(origin []byte) bool {
	if c.any {
		return true
	}
	for _, o := range c.origins {
		if equalFold(origin, o) {
			return true
		}
		scheme, suffix, ok := strings.Cut(o, "*")
		if n := len(origin) - len(suffix); ok && suffix != "" && n > len(scheme) &&
			equalFold(origin[:len(scheme)], scheme) && equalFold(origin[n:], suffix) {
			return true
		}
	}
	return false
}

// appendTo appends what an answer to a request of an origin has; "" is a request that no script made.
func (c *cors) appendTo(b, origin []byte) []byte {
	if c == nil {
		return b
	}
	if c.any {
		if len(origin) == 0 {
			return b
		}
		b = append(b, "Access-Control-Allow-Origin: *\r\n"...)
		return append(b, c.lines...)
	}
	b = append(b, "Vary: Origin\r\n"...)
	if len(origin) == 0 || !c.allows(origin) {
		return b
	}
	b = append(b, "Access-Control-Allow-Origin: "...)
	b = append(b, origin...)
	b = append(b, '\r', '\n')
	return append(b, c.lines...)
}

// preflight answers a browser that asks whether it may ask.
func (c *cors) preflight(x *Exchange) (Answer, bool) {
	if len(x.origin) == 0 || string(x.verb) != "OPTIONS" {
		return Answer{}, false
	}
	if _, asks := x.Head.Field("access-control-request-method", 0); !asks {
		return Answer{}, false
	}
	if !c.allows(x.origin) {
		return Answer{Status: 403, Code: "ORIGIN_NOT_ALLOWED", Error: "scripts of " + string(x.origin) + " may not ask here"}, true
	}
	fields := c.answer
	if c.anyHead {
		if names, ok := x.Head.Field("access-control-request-headers", 0); ok {
			fields += "Access-Control-Allow-Headers: " + string(names) + "\r\nVary: Access-Control-Request-Headers\r\n"
		}
	}
	return Answer{Status: 204, Fields: fields}, true
}
