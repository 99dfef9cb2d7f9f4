// Package app puts the rooms together into processes: the three production
// roles, and `tapecast dev`, which is all of them with an embedded broker and
// an embedded registry in one process. It owns what the rooms do not: listeners
// and HTTP servers, health, the order in which parts start and stop.
//
// Each process is made by a New function, which binds every port it needs
// before anything runs, and a Run method, which blocks until its context ends
// or a part fails. When Run returns, every part has ended (or was named as the
// one that would not).
package app
