//go:build !provebad

package fanout

// byReader tells whether kafka-go's group Reader takes the generation loop's
// place: never.
func (m *member) byReader() bool { return false }
