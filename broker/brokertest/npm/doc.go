// Package npm lets tests ask programs that are written for Node.js: what other
// libraries make of our tokens, and whether other clients take what we made. It
// also installs PostgreSQL servers of several versions, which npm has packages of.
//
// It guarantees that a program runs on the packages which the package-lock.json
// beside it pins by hash, in a private folder that goes when the program is
// closed, and that no script of a package is run to install it. The program is
// a child that ends when we do.
//
// It refuses a lock that leaves a hash out, or that says where a package comes
// from: that is for whoever installs to configure. It refuses to go on without
// Node.js and npm: their absence is an error, never a reason to skip. Nothing is
// written beside the sources.
//
// The package needs a Unix system. It imports nothing of testing; tests close
// what they start in their own clean-up.
package npm
