package auth

import (
	"log/slog"
	"net/url"
	"strings"
	"time"

	"cline-meet/signal/signal/setting"
)

// minSecret is as long as what HS256 makes of it: RFC 7518, section 3.2.
const minSecret = 32

// maxTimeout is a little less than the HTTP server waits for a request to be over.
const maxTimeout = 8 * time.Second

// Config says who may come in. Everybody may unless it says otherwise.
type Config struct {
	Secrets   []string
	JWKS      string
	Refresh   time.Duration
	Issuer    string
	Audiences []string
	Query     bool
	URL       string
	Timeout   time.Duration
	Requests  int

	// Logger receives all logs.
	Logger *slog.Logger
}

// DefaultConfig returns the settings of a server that was told nothing.
func DefaultConfig() Config {
	return Config{Refresh: 5 * time.Minute, Timeout: 5 * time.Second, Requests: 64}
}

// Enabled reports whether not everybody may come in.
func (c *Config) Enabled() bool { return c.tokens() || c.URL != "" }

// AtATime is how many requests to the backend may be under way, 0 where it is not asked.
func (c *Config) AtATime() float64 {
	if c.URL == "" {
		return 0
	}
	return float64(c.Requests)
}

func (c *Config) tokens() bool { return len(c.Secrets) > 0 || c.JWKS != "" }

// Who says who may come in.
func (c *Config) Who() string {
	switch {
	case c.URL != "":
		return "whom the backend in --auth-url allows"
	case c.tokens():
		return "who has a token"
	}
	return "everybody"
}

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Authentication",
		setting.Secrets("auth-secret", &c.Secrets, minSecret, "`SECRETS` of at least 32 characters with which your backend signs tokens (HS256), comma separated, newest first"),
		setting.Text("auth-jwks", &c.JWKS, "`FILE` or URL with the JSON Web Key Set of your tokens (RS256, ES256, EdDSA)"),
		setting.Duration("auth-jwks-refresh", &c.Refresh, time.Second, setting.Longest, "`SECONDS` between readings of a URL in --auth-jwks"),
		setting.Text("auth-issuer", &c.Issuer, "`TEXT` that the iss of a token must be"),
		setting.List("auth-audience", &c.Audiences, "`TEXTS` of which the aud of a token must have one, comma separated"),
		setting.Bool("auth-query", &c.Query, "take tokens in ?access_token= too, which ends in the logs of proxies"),
		setting.Text("auth-url", &c.URL, "`URL` of your backend, which is asked for each connect and join instead of a token"),
		setting.Duration("auth-timeout", &c.Timeout, 10*time.Millisecond, maxTimeout, "`SECONDS` that --auth-url, or a URL in --auth-jwks, may take to answer"),
		setting.Int("auth-requests", &c.Requests, 1, setting.Most, "`NUMBER` of requests to --auth-url that may be under way"),
	)
}

// Validate returns every problem beyond the bounds of the single settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	p.Check(!isURL(c.JWKS) || validURL(c.JWKS), "auth-jwks", "is no http:// or https:// URL with a host, nor a file")
	p.Check(c.URL == "" || validURL(c.URL), "auth-url", "is no http:// or https:// URL with a host")
	p.Check(c.URL == "" || !c.tokens(), "auth-url", "give it, or --auth-secret and --auth-jwks")
	p.Check(c.tokens() || c.Issuer == "" && len(c.Audiences) == 0, "auth-issuer, --auth-audience", "are for tokens: give --auth-secret or --auth-jwks")
	return p.Err()
}

// CheckFiles reads the file with keys, if there is one.
func (c *Config) CheckFiles() error {
	if c.JWKS == "" || isURL(c.JWKS) {
		return nil
	}
	_, err := readKeyFile(c.JWKS)
	return err
}

func isURL(text string) bool { return strings.Contains(text, "://") }

func validURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
