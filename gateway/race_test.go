//go:build race

package gateway

// raceDetector makes pools forget at random.
const raceDetector = true
