//go:build !race

package schemas_test

// raceDetector makes pools forget at random.
const raceDetector = false
