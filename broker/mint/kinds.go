// Package mint lists the credential kinds that Daypass knows. Nothing
// registers itself: a kind that is not in this list does not exist.
package mint

import (
	"github.com/daypass-dev/daypass/broker"
	"github.com/daypass-dev/daypass/broker/mint/jwt"
	"github.com/daypass-dev/daypass/broker/mint/mysql"
	"github.com/daypass-dev/daypass/broker/mint/postgres"
)

// Kinds returns every kind, sorted by name.
func Kinds() []broker.Kind {
	return []broker.Kind{jwt.Kind(), mysql.Kind(), postgres.Kind()}
}
