package setting

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Longest is the bound of durations that have none of their own: ten years. Sums and multiples of
	// it fit into a time.Duration.
	Longest = 10 * 365 * 24 * time.Hour
	// Most is the bound of numbers that have none of their own. Sums and multiples of it fit into an int.
	Most = math.MaxInt / 8
)

// Text is any text. An empty environment variable sets it, too.
func Text(name string, p *string, usage string) *Setting {
	s := newSetting(name, usage, (*text)(p), func() error { return nil })
	if s.empties = true; *p != "" {
		s.DefaultText = strconv.Quote(*p)
	}
	return s
}

// Choice is one of some texts.
func Choice(name string, p *string, among []string, usage string) *Setting {
	s := Text(name, p, usage)
	s.empties = false
	s.check = func() error {
		if !slices.Contains(among, *p) {
			return fmt.Errorf("%q is none of %s%s", *p, strings.Join(among, ", "), DidYouMean("", strings.ToLower(*p), among))
		}
		return nil
	}
	return s
}

// List is any number of texts, comma separated. Setting it replaces the whole, so that a flag wins over
// the environment instead of adding to it.
func List(name string, p *[]string, usage string) *Setting {
	return newSetting(name, usage, (*list)(p), func() error { return nil })
}

// LeastSecret is the length from which a secret cannot be found by trial.
const LeastSecret = 16

// Secrets is a list of texts that nobody must guess, each at least so long. What is wrong with one is said without it.
func Secrets(name string, p *[]string, least int, usage string) *Setting {
	return newSetting(name, usage, (*list)(p), func() error {
		for i, secret := range *p {
			if len(secret) < least {
				return fmt.Errorf("secret %d of %d has %d characters, which can be found by trial: use at least %d", i+1, len(*p), len(secret), least)
			}
		}
		return nil
	})
}

// Bool is true or false.
func Bool(name string, p *bool, usage string) *Setting {
	return newSetting(name, usage, (*truth)(p), func() error { return nil })
}

// Int is a whole number from least to most.
func Int(name string, p *int, least, most int, usage string) *Setting {
	return newSetting(name, usage, (*whole)(p), func() error { return within(*p, least, most) })
}

// Port is the number of a TCP or UDP port from least, which is 0 where the system may pick one.
func Port(name string, p *int, least int, usage string) *Setting {
	return newSetting(name, usage, (*whole)(p), func() error {
		if *p < least || *p > math.MaxUint16 {
			return fmt.Errorf("%d is not a port (%d-%d)", *p, least, math.MaxUint16)
		}
		return nil
	})
}

// Rate is a number, whole or not, from least to most.
func Rate(name string, p *float64, least, most float64, usage string) *Setting {
	return newSetting(name, usage, (*number)(p), func() error { return within(*p, least, most) })
}

// Derived stands for a number that follows from other settings or from the machine. It is a default that nobody can give.
const Derived = -1

// OrDerived lets the default of a number be Derived; the help says from what.
func (s *Setting) OrDerived(from string) *Setting {
	bounds := s.check
	s.check = func() error {
		if s.isDerived() {
			return nil
		}
		return bounds()
	}
	s.derives = true
	return s.Otherwise(from)
}

func (s *Setting) isDerived() bool { return s.derives && s.Value.String() == strconv.Itoa(Derived) }

// Duration is a time from least to most, given in seconds or with a unit: 90, 1.5, 90s, 1m30s.
func Duration(name string, p *time.Duration, least, most time.Duration, usage string) *Setting {
	return newSetting(name, usage, (*duration)(p), func() error { return within(*p, least, most) })
}

// within says how a value is out of its bounds.
func within[T cmp.Ordered](v, least, most T) error {
	switch {
	case v > most:
		return fmt.Errorf("%v is more than %v", v, most)
	case v >= least:
		return nil
	}
	return fmt.Errorf("%v is less than %v", v, least) // Or it is not a number at all.
}

type text string

func (t *text) Set(given string) error {
	*t = text(given)
	return nil
}

func (t *text) String() string { return string(*t) }

type list []string

func (l *list) Set(given string) error {
	*l = ParseList(given)
	return nil
}

func (l *list) String() string { return strings.Join(*l, ",") }

// ParseList takes comma separated texts apart; there are none in an empty text.
func ParseList(given string) []string {
	var out []string
	for part := range strings.SplitSeq(given, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

type truth bool

func (b *truth) Set(given string) error {
	v, err := strconv.ParseBool(strings.TrimSpace(given))
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", given)
	}
	*b = truth(v)
	return nil
}

func (b *truth) String() string { return strconv.FormatBool(bool(*b)) }

type whole int

func (n *whole) Set(given string) error {
	v, err := strconv.ParseInt(strings.TrimSpace(given), 0, strconv.IntSize)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%q is too large a number", given)
	case err != nil:
		return fmt.Errorf("%q is not a whole number%s", given, n.example())
	}
	*n = whole(v)
	return nil
}

func (n *whole) String() string { return strconv.Itoa(int(*n)) }

// example shows who wrote something else, such as 10MB, how the value before it is written.
func (n *whole) example() string {
	if *n <= 0 {
		return ": digits alone, without a unit"
	}
	return fmt.Sprintf(": digits alone, without a unit, such as %d", *n)
}

type number float64

func (n *number) Set(given string) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(given), 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%q is too large a number", given)
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		return fmt.Errorf("%q is not a number", given)
	}
	*n = number(v)
	return nil
}

func (n *number) String() string { return strconv.FormatFloat(float64(*n), 'f', -1, 64) }

type duration time.Duration

func (d *duration) Set(given string) error {
	v, err := ParseDuration(given)
	if err == nil {
		*d = duration(v)
	}
	return err
}

func (d *duration) String() string {
	return strconv.FormatFloat(time.Duration(*d).Seconds(), 'f', -1, 64)
}

// ParseDuration reads a time of at most Longest, in seconds or with a unit: 90, 1.5, 90s, 1m30s.
func ParseDuration(given string) (time.Duration, error) {
	plain := strings.TrimSpace(given)
	d, err := time.ParseDuration(plain)
	if err != nil {
		seconds, err := strconv.ParseFloat(plain, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(seconds) {
			return 0, fmt.Errorf("%q is not a time: seconds or with a unit, such as 90, 1.5 or 1m30s", given)
		}
		d = fromSeconds(seconds)
	}
	switch {
	case d < 0:
		return 0, fmt.Errorf("%q is negative", given)
	case d > Longest:
		return 0, fmt.Errorf("%q is longer than 10 years", given)
	}
	return d, nil
}

// fromSeconds is exact within what ParseDuration accepts, and out of its bounds for all beyond.
func fromSeconds(seconds float64) time.Duration {
	bound := (Longest + time.Second).Seconds()
	return time.Duration(math.Round(min(max(seconds, -bound), bound) * float64(time.Second)))
}

// NotAnAddress says why a text is not an IP address.
func NotAnAddress(text string) error {
	host, _, err := net.SplitHostPort(text)
	if bare := strings.Trim(text, "[]"); bare != text {
		if _, err := netip.ParseAddr(bare); err == nil {
			return fmt.Errorf("%q is not an IP address: write %s, without brackets", text, bare)
		}
	}
	if _, bad := netip.ParseAddr(host); err == nil && bad == nil {
		return fmt.Errorf("%q is not an IP address: write %s, the port has a setting of its own", text, host)
	}
	return fmt.Errorf("%q is not an IP address, such as 192.0.2.1 or 2001:db8::1", text)
}

// ParsePrefix reads a CIDR, or an address, which means itself alone. The bits beyond the length are kept.
func ParsePrefix(given string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(given); err == nil {
		return p, nil
	}
	addr, err := netip.ParseAddr(given)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is neither a CIDR nor an IP address", given)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
