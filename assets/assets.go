// Package assets holds the browser side of the product: signal.js, the client of the wire contract
// as an ES module, whose parts lie in signal/, and the test page that is made of it. The files are
// served as they are; there is no build step.
package assets

import (
	"embed"
	"io/fs"
)

//go:embed index.html icon.svg style.css *.js signal/*.js
var files embed.FS

// FS returns the static files, named as they are served.
func FS() fs.FS { return files }
