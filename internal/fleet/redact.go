package fleet

import (
	"net/url"
	"strings"
)

// Redact returns a URL without its password and the parameters that are one.
func Redact(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	parts := strings.Split(u.RawQuery, "&")
	for i, part := range parts {
		if name, _, _ := strings.Cut(part, "="); Sensitive(name) {
			parts[i] = name + "=xxxxx"
		}
	}
	u.RawQuery = strings.Join(parts, "&")
	return u.Redacted()
}

// Sensitive reports whether a parameter of that name may hold what nobody must see.
func Sensitive(name string) bool {
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	name = strings.ToLower(name)
	return strings.Contains(name, "password") || strings.Contains(name, "token") || strings.Contains(name, "secret")
}
