// Package brokertest is what tests of the parts behind package broker's
// interfaces share: conformance suites that every implementation runs, and a
// clock that a test can set.
//
// A suite takes a factory and checks the contract that the interface's comments
// state, under the race detector too. It guarantees nothing about what only one
// technology can do wrong: that is tested beside the implementation, against
// the real server (see brokertest/servers).
package brokertest
