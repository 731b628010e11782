// Package daypass lets a CI job exchange the OIDC token its provider signed
// for credentials that live for minutes, and give them back.
//
//	client, err := daypass.FromEnv(nil)
//	answer, err := client.Exchange(ctx, daypass.Grant{Name: "orders-db"})
//	defer client.GiveBack(context.WithoutCancel(ctx), answer.Session.Token)
//
// It guarantees:
//
//   - tokens and credentials print, log and marshal as "[redacted]";
//     [Secret.Reveal] is the only way out;
//   - a CI token goes to the broker's exchange and extend routes and nowhere
//     else, the token with which GitHub is asked for one goes to GitHub's URL
//     and nowhere else, and no redirect is followed with either;
//   - answers are sealed to a key of the call's own: who reads along, or has
//     stolen the token, reads nothing, and a lost answer is fetched again
//     rather than made twice;
//   - nothing is sent over plain http but to loopback, unless told so;
//   - answers are size-capped, and one that is not what the protocol says is
//     an error, never a guess.
//
// It refuses answers in clear where it asked for sealed ones, and to retry where
// that could not help or would hide what happened: see [Client.Exchange]. It
// imports the standard library only.
package daypass
