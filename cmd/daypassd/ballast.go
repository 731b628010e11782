package main

// ballastSize is some five hundred exchanges' garbage.
const ballastSize = 64 << 20

// ballast is a part of the heap that is never touched, and so takes up addresses
// but no memory by itself. The collector runs each time the heap has doubled: a broker
// that keeps ten megabytes would spend a tenth of its time on it, and this lets
// it work through as many again as the ballast has first. Whoever keeps it alive
// has it. There is none where the operator has said how to collect.
func ballast(env func(string) (string, bool)) []byte {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if v, _ := env(name); v != "" {
			return nil
		}
	}
	return make([]byte, ballastSize)
}
