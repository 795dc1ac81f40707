package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/flagstead/flagstead/sdk"
)

// userFlags say whom flags are evaluated for.
type userFlags struct {
	User     string            `short:"u" placeholder:"KEY" help:"${userHelp}"`
	Name     string            `placeholder:"NAME" help:"Name of the user. Default: the key."`
	Attr     map[string]string `short:"a" mapsep:"none" placeholder:"NAME=VALUE" help:"Attribute of the user; may be repeated."`
	UserJSON string            `placeholder:"JSON" help:"The user as a JSON object with key, name and attributes, instead of the three above."`
}

// user returns the user; its key is fallback if none is given.
func (f *userFlags) user(fallback string) (*sdk.User, error) {
	if f.UserJSON != "" {
		if f.User != "" || f.Name != "" || len(f.Attr) > 0 {
			return nil, errors.New("--user-json excludes --user, --name and --attr")
		}
		u, err := sdk.ParseUser([]byte(f.UserJSON))
		if err != nil {
			return nil, fmt.Errorf("--user-json: %w", plain(err))
		}
		return u, nil
	}
	key := f.User
	if key == "" {
		key = fallback
	}
	if key == "" {
		return nil, errors.New("no user: give --user KEY or --user-json")
	}
	var attrs []sdk.Attr
	if f.Name != "" {
		attrs = append(attrs, sdk.Name(f.Name))
	}
	for name, value := range f.Attr {
		if strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("--attr %q has no name before the =", "="+value)
		}
		attrs = append(attrs, sdk.String(name, value))
	}
	return sdk.NewUser(key, attrs...)
}
