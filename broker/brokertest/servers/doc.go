// Package servers starts real servers for tests and for the demo: on free
// loopback ports, with private data folders, as children that die with us.
//
// It guarantees that a server that was started is gone after Stop or Kill, and
// that it does not outlive this process where the system lets us say so
// (Linux). It refuses to reuse a server that runs already, to listen anywhere
// but on loopback, and to go on without a server that is not installed: that
// is an error, never a reason to skip.
//
// The package needs a Unix system. It imports nothing of testing, so that
// programs can use it; tests stop what they start in their own clean-up.
package servers
