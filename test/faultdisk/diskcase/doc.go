// Package diskcase holds the tests of the built program on a disk that fails
// (test/faultdisk): at every step that a command makes on its disk the program
// is killed, the power is cut, or the step fails, and the next run has to recover
// without help.
//
// The tests need the program (-smolvm) and the right to mount FUSE; without
// either they skip. test/vm carries this package's test binary into a sandbox and
// runs it there as root. It is self-contained: a small signed catalogue and the
// HTTP server that it comes from are made by the tests.
//
//	go test ./test/faultdisk/diskcase -args -smolvm $PWD/bin/smolvm [-sample 20] [-seed 7]
package diskcase
