//go:build !provebad

package sim

const sabotaged = false

func take(string) {}
