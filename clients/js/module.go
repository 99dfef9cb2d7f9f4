// Package js carries the JavaScript client, for the console: there is one copy
// of it in the tree, and one implementation of resuming in the product.
package js

import _ "embed"

// Module is tapecast.js, an ES module.
//
//go:embed tapecast.js
var Module []byte
