package packaging_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLocksAreTakenInOrder reads the order of locks in CONTRIBUTING.md and the code of the packages that it names. A lock
// is only taken while locks that come before it in the order are held, whatever functions of the package lie
// in between, and a function whose name ends with Locked is only called with the lock of its receiver held. Functions
// without a name count as run by nobody who holds a lock, unless package slices or maps runs them.
func TestLocksAreTakenInOrder(t *testing.T) {
	text, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z/]+)` \\| ((?:`\\w+\\.\\w+`(?: → )?)+) \\|").FindAllStringSubmatch(string(text), -1)
	orders := map[string][]string{}
	for _, row := range rows {
		orders[row[1]] = append(orders[row[1]], strings.ReplaceAll(row[2], "`", ""))
	}
	if len(orders) < 2 {
		t.Fatalf("the orders are %v", orders)
	}
	for name, rows := range orders {
		p := parsePackage(t, name)
		for _, row := range rows {
			p.allow(strings.Split(row, " → "))
		}
		p.check()
		for _, lock := range slices.Sorted(maps.Keys(p.known)) {
			if !p.seen[lock] {
				t.Errorf("%s: nobody takes %s", name, lock)
			}
		}
	}
}

// lockChecker follows the locks of one package.
type lockChecker struct {
	t     *testing.T
	name  string
	fset  *token.FileSet
	info  *types.Info
	funcs map[*types.Func]*ast.FuncDecl

	known   map[string]bool            // known are the locks of all orders.
	after   map[string]map[string]bool // after says which locks may be taken while one is held.
	seen    map[string]bool            // seen are the locks that somebody takes.
	takes   map[*types.Func]map[string]bool
	pending []*ast.FuncLit
}

// parsePackage reads a package of the module with its types.
func parsePackage(t *testing.T, name string) *lockChecker {
	t.Helper()
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles", "./"+name)
	list.Dir = tree(t)
	out, err := list.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Start(); err != nil {
		t.Fatal(err)
	}
	type listed struct {
		ImportPath, Export, Dir string
		GoFiles                 []string
	}
	exports, last := map[string]string{}, listed{}
	for decoder := json.NewDecoder(out); ; {
		var one listed
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[one.ImportPath], last = one.Export, one // The package itself comes last.
	}
	if err := list.Wait(); err != nil {
		t.Fatal(err)
	}
	c := &lockChecker{t: t, name: name, fset: token.NewFileSet(), funcs: map[*types.Func]*ast.FuncDecl{}, known: map[string]bool{},
		after: map[string]map[string]bool{}, seen: map[string]bool{}, takes: map[*types.Func]map[string]bool{},
		info: &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
			Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{}}}
	var files []*ast.File
	for _, name := range last.GoFiles {
		file, err := parser.ParseFile(c.fset, filepath.Join(last.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	conf := types.Config{Importer: importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	if _, err := conf.Check(last.ImportPath, c.fset, files, c.info); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				c.funcs[c.info.Defs[f.Name].(*types.Func)] = f
			}
		}
	}
	return c
}

// allow takes in one order.
func (c *lockChecker) allow(order []string) {
	for i, lock := range order {
		c.known[lock] = true
		if c.after[lock] == nil {
			c.after[lock] = map[string]bool{}
		}
		for _, later := range order[i+1:] {
			c.after[lock][later] = true
		}
	}
}

// check finds out what each function takes, by itself and through others, and then walks through all of them.
func (c *lockChecker) check() {
	for changed := true; changed; {
		changed = false
		for f, decl := range c.funcs {
			before := len(c.takes[f])
			c.takes[f] = c.taken(decl.Body)
			changed = changed || len(c.takes[f]) != before
		}
	}
	for f, decl := range c.funcs {
		var held []string
		if lock := lockOf(f); lock != "" && strings.HasSuffix(f.Name(), "Locked") {
			held = append(held, lock)
		}
		c.walk(decl.Body, held)
	}
	for len(c.pending) > 0 {
		next := c.pending[0]
		c.pending = c.pending[1:]
		c.walk(next.Body, nil)
	}
}

// taken returns the locks that a body takes while it runs.
func (c *lockChecker) taken(body ast.Node) map[string]bool {
	locks := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			return false
		case *ast.FuncLit:
			return false
		case *ast.CallExpr:
			if lock, verb := c.lock(n); verb == "Lock" {
				locks[lock] = true
			}
			maps.Copy(locks, c.takes[c.callee(n)])
			for _, f := range c.inline(n) {
				maps.Copy(locks, c.taken(f.Body))
			}
		}
		return true
	})
	return locks
}

// walk goes through a body in the order of its text with the locks that are held, and returns those that are held at
// its end. A branch that leaves the function does not count for what follows.
func (c *lockChecker) walk(body ast.Node, held []string) []string {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			c.pending = append(c.pending, n)
			return false
		case *ast.GoStmt:
			if f, ok := n.Call.Fun.(*ast.FuncLit); ok {
				c.pending = append(c.pending, f)
			}
			return false
		case *ast.DeferStmt:
			if _, verb := c.lock(n.Call); verb == "" {
				c.call(n.Call, held) // Deferred calls run while what is released by defer may still be held.
			}
			return false
		case *ast.IfStmt:
			held = c.branches(held, n.Init, n.Cond, n.Body, n.Else)
			return false
		case *ast.CaseClause:
			c.walkAll(n.Body, held)
			return false
		case *ast.CommClause:
			c.walkAll(n.Body, held)
			return false
		case *ast.CallExpr:
			held = c.call(n, held)
			return false
		}
		return true
	})
	return held
}

// branches walks an if; what follows holds what is held at the end of a branch that goes on.
func (c *lockChecker) branches(held []string, init ast.Stmt, cond ast.Expr, body *ast.BlockStmt, other ast.Stmt) []string {
	if init != nil {
		held = c.walk(init, held)
	}
	held = c.walk(cond, held)
	after := c.walk(body, slices.Clone(held))
	if leaves(body.List) {
		after = held
	}
	if other != nil {
		otherwise := c.walk(other, slices.Clone(held))
		if leaves(body.List) {
			after = otherwise
		}
	}
	return after
}

func (c *lockChecker) walkAll(statements []ast.Stmt, held []string) {
	held = slices.Clone(held)
	for _, s := range statements {
		held = c.walk(s, held)
	}
}

// leaves says whether the last statement goes elsewhere than to the next one.
func leaves(list []ast.Stmt) bool {
	if len(list) == 0 {
		return false
	}
	switch last := list[len(list)-1].(type) {
	case *ast.ReturnStmt, *ast.BranchStmt:
		return true
	case *ast.ExprStmt:
		if call, ok := last.X.(*ast.CallExpr); ok {
			id, ok := call.Fun.(*ast.Ident)
			return ok && id.Name == "panic"
		}
	}
	return false
}

// call checks one call and returns the locks that are held after it.
func (c *lockChecker) call(n *ast.CallExpr, held []string) []string {
	held = c.walk(n.Fun, held)
	inline := c.inline(n)
	for _, arg := range n.Args {
		if f, ok := arg.(*ast.FuncLit); ok && slices.Contains(inline, f) {
			c.walk(f.Body, slices.Clone(held))
		} else {
			held = c.walk(arg, held)
		}
	}
	switch lock, verb := c.lock(n); verb {
	case "Lock":
		c.seen[lock] = true
		c.ordered(n, held, lock)
		return append(slices.Clone(held), lock)
	case "Unlock":
		return slices.DeleteFunc(slices.Clone(held), func(l string) bool { return l == lock })
	}
	f := c.callee(n)
	if f == nil {
		return held
	}
	if lock := lockOf(f); lock != "" && strings.HasSuffix(f.Name(), "Locked") && !slices.Contains(held, lock) {
		c.t.Errorf("%s: %s is called, and %s is not held", c.position(n), f.Name(), lock)
	}
	for lock := range c.takes[f] {
		c.ordered(n, held, lock)
	}
	return held
}

// ordered complains unless a lock may be taken while those others are held.
func (c *lockChecker) ordered(n ast.Node, held []string, lock string) {
	for _, h := range held {
		if !c.after[h][lock] {
			c.t.Errorf("%s: takes %s while %s is held, against the order in CONTRIBUTING.md", c.position(n), lock, h)
		}
	}
}

func (c *lockChecker) position(n ast.Node) string {
	p := c.fset.Position(n.Pos())
	return fmt.Sprintf("%s/%s:%d", c.name, filepath.Base(p.Filename), p.Line)
}

// inline returns the functions without a name that a call runs itself.
func (c *lockChecker) inline(n *ast.CallExpr) []*ast.FuncLit {
	if f, ok := n.Fun.(*ast.FuncLit); ok {
		return []*ast.FuncLit{f}
	}
	sel, ok := n.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	f, ok := c.info.Uses[sel.Sel].(*types.Func)
	if !ok || f.Pkg() == nil || f.Pkg().Path() != "slices" && f.Pkg().Path() != "maps" {
		return nil
	}
	var literals []*ast.FuncLit
	for _, arg := range n.Args {
		if literal, ok := arg.(*ast.FuncLit); ok {
			literals = append(literals, literal)
		}
	}
	return literals
}

// callee returns the function of the package that a call names, if it names one.
func (c *lockChecker) callee(n *ast.CallExpr) *types.Func {
	var id *ast.Ident
	switch fun := n.Fun.(type) {
	case *ast.Ident:
		id = fun
	case *ast.SelectorExpr:
		id = fun.Sel
	default:
		return nil
	}
	f, _ := c.info.Uses[id].(*types.Func)
	if f != nil && c.funcs[f.Origin()] != nil {
		return f.Origin()
	}
	return nil
}

// lock returns which lock a call takes or releases, as Type.field, and whether it is Lock or Unlock, or nothing.
func (c *lockChecker) lock(n *ast.CallExpr) (lock, verb string) {
	method, ok := n.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	f, ok := c.info.Uses[method.Sel].(*types.Func)
	if !ok || f.Pkg() == nil || f.Pkg().Path() != "sync" || !slices.Contains([]string{"Lock", "RLock", "Unlock", "RUnlock"}, f.Name()) {
		return "", ""
	}
	field, ok := method.X.(*ast.SelectorExpr)
	if !ok {
		return "", "" // A local variable.
	}
	selection := c.info.Selections[field]
	if selection == nil {
		return "", "" // A variable of another package.
	}
	return owner(selection.Recv(), selection.Index()) + "." + field.Sel.Name, strings.TrimPrefix(f.Name(), "R")
}

// lockOf returns the lock of a method's receiver, if that has one called mu.
func lockOf(f *types.Func) string {
	recv := f.Signature().Recv()
	if recv == nil {
		return ""
	}
	field, index, _ := types.LookupFieldOrMethod(recv.Type(), true, f.Pkg(), "mu")
	if field == nil {
		return ""
	}
	return owner(recv.Type(), index) + ".mu"
}

// owner returns the name of the struct that has a field, which may be embedded in t; index is the way to it.
func owner(t types.Type, index []int) string {
	for _, i := range index[:len(index)-1] {
		t = under(t).(*types.Struct).Field(i).Type()
	}
	return named(t)
}

func under(t types.Type) types.Type {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		t = p.Elem()
	}
	return t.Underlying()
}

// named returns the name of a type or of what it points to.
func named(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name()
	}
	return ""
}
