package packaging_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImportsPointOneWay keeps the house as CONTRIBUTING.md draws it. What only tests use may be imported by every test
// and by nothing that is built into the executable.
func TestImportsPointOneWay(t *testing.T) {
	const module, leaf = "cline-meet/signal/", "signal/setting" // All may import the leaf.
	forTests := []string{"packaging/systemtest", "packaging/systemtest/acmetest", "packaging/systemtest/relaytest", "state/redistest", "assets/pagetest", "turnsrv/internal/wire/wiretest", "turnsrv/internal/turntest", "turnsrv/internal/peers/peerstest"}
	allowed := map[string][]string{
		".":             {"assets", "packaging", "signal", "state", "turnsrv", "signal/admin", "signal/certificate", "signal/check", "signal/client", "signal/edge", "signal/service", "signal/bench", "turnsrv/bench"},
		"signal":        {"state", "signal/client", "signal/auth", "signal/passwords"},
		"signal/bench":  {"signal", "state", "signal/bench/measure", "signal/client"},          // Its tests measure a server.
		"signal/admin":  {"signal", "turnsrv", "state", "signal/client", "turnsrv/turnclient"}, // Its tests have clients of both.
		"signal/client": nil,
		"signal/check":  {"signal/client", "turnsrv/turnclient"},
		"turnsrv/bench": {"turnsrv", "turnsrv/bench/internal/udpio", "turnsrv/turnclient", "signal/bench/measure"}, // Its tests measure a server.
		"state":         nil,
		"assets":        {"signal/client"}, // Its tests have a client beside the pages.
		"packaging":     {"signal/client"},
		"k8s":           nil,

		"packaging/systemtest":           nil,
		"packaging/systemtest/relaytest": {"packaging/systemtest"},
		"packaging/systemtest/acmetest":  {"packaging/systemtest"},
		"state/redistest":                {"packaging/systemtest"},
		"assets/pagetest":                {"packaging/systemtest"},

		"packaging/image":              nil,
		"packaging/bill":               nil,
		"signal/bench/measure":         nil,
		"turnsrv/turnclient":           nil,
		"signal/auth":                  nil,
		"signal/passwords":             nil,
		"signal/edge":                  nil,
		"signal/certificate":           nil,
		"signal/service":               {"signal", "signal/admin", "state", "turnsrv", "signal/client", "signal/certificate", "signal/edge"},
		leaf:                           nil,
		"turnsrv/bench/internal/udpio": nil,

		// The rooms of the TURN server.
		"turnsrv":                          {"turnsrv/internal/wire", "turnsrv/internal/batch", "turnsrv/internal/transport", "turnsrv/internal/engine", "turnsrv/internal/auth", "turnsrv/internal/relayaddr", "turnsrv/internal/peers", "turnsrv/internal/consent"},
		"turnsrv/internal/nodtls":          nil, // It stands in for a module.
		"turnsrv/internal/wire":            nil,
		"turnsrv/internal/batch":           nil,
		"turnsrv/internal/transport":       {"turnsrv/internal/wire", "turnsrv/internal/batch"},
		"turnsrv/internal/engine":          {"turnsrv/internal/wire"},
		"turnsrv/internal/auth":            {"turnsrv/internal/wire", "turnsrv/internal/consent"},
		"turnsrv/internal/consent":         {"turnsrv/internal/wire"},
		"turnsrv/internal/relayaddr":       nil,
		"turnsrv/internal/peers":           {"turnsrv/internal/relayaddr"},
		"turnsrv/internal/wire/wiretest":   nil,
		"turnsrv/internal/peers/peerstest": nil,
		"turnsrv/internal/turntest":        {"packaging/systemtest"},
	}
	err := fs.WalkDir(os.DirFS(".."), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "dist" {
			return filepath.SkipDir // What was built.
		}
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		may, known := allowed[filepath.ToSlash(filepath.Dir(path))]
		if !known {
			t.Errorf("%s: its directory is not in the list of packages", path)
		}
		if strings.HasSuffix(path, "_test.go") {
			may = slices.Concat(may, forTests)
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if ours, ok := strings.CutPrefix(name, module); ok && ours != leaf && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s", path, name)
			}
			if strings.HasPrefix(name, "github.com/pion/turn") && !strings.HasSuffix(path, "_test.go") &&
				!slices.Contains(append(forTests, "turnsrv/internal/engine"), filepath.ToSlash(filepath.Dir(path))) {
				t.Errorf("%s imports %s, which is behind turnsrv/internal/engine", path, name)
			}
			if strings.HasPrefix(name, "github.com/pion/dtls/v2") {
				t.Errorf("%s imports %s, which reuses nonces", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
