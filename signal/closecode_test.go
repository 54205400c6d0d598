package signal

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCloseCodesAreDocumented compares the table in README.md with the constants of closecode.go.
func TestCloseCodesAreDocumented(t *testing.T) {
	read := func(name string, pattern string) (codes []string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			codes = append(codes, m[1])
		}
		return codes
	}
	var declared []string
	for _, c := range []closeCode{closeGoingAway, closeProtocol, closeNotUTF8, closePolicy, closeTooLarge, closeSlow, closeTimeout, closeLost, closeUnavailable, closeMemory, closeReplaced, closeExpired, closeKicked} {
		declared = append(declared, strconv.Itoa(int(c)))
	}
	if n := len(read("closecode.go", `(?m)^\t(close\w+) +closeCode = `)); n != len(declared) {
		t.Errorf("closecode.go declares %d codes, this test knows %d", n, len(declared))
	}
	if got := read("README.md", `(?m)^\| (\d{4}) \|`); !slices.Equal(got, declared) {
		t.Errorf("README.md has %v, closecode.go %v", got, declared)
	}
	for _, row := range strings.Split(strings.Join(read("README.md", `(?m)^(\| 4\d{3} \|.*)$`), "\n"), "\n") {
		cells := strings.Split(row, "|")
		if again := strings.TrimSpace(cells[1]) < "4500"; again != strings.HasPrefix(strings.TrimSpace(cells[3]), "yes") {
			t.Errorf("whether to reconnect is wrong in %s", row)
		}
	}
}
