package certificate

import "cline-meet/signal/signal/setting"

// Config says where the certificates of a node come from.
type Config struct {
	Cert, Key         string // Cert and Key are of HTTPS and, where it has none of its own, of TURN.
	TURNCert, TURNKey string
}

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Certificates",
		setting.Text("tls-cert", &c.Cert, "PEM `FILE` with the certificate chain of HTTPS, and of TURN without --turn-tls-cert; reloaded when it changes"),
		setting.Text("tls-key", &c.Key, "PEM `FILE` with the key of --tls-cert"),
		setting.Text("turn-tls-cert", &c.TURNCert, "PEM `FILE` with the certificate chain of TURN alone; without --tls-cert HTTP stays plain"),
		setting.Text("turn-tls-key", &c.TURNKey, "PEM `FILE` with the key of --turn-tls-cert"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	p.Check((c.Cert == "") == (c.Key == ""), "tls-cert", "give it and --tls-key, or neither")
	p.Check((c.TURNCert == "") == (c.TURNKey == ""), "turn-tls-cert", "give it and --turn-tls-key, or neither")
	return p.Err()
}

// HTTPS says whether browsers come by TLS.
func (c *Config) HTTPS() bool { return c.Cert != "" }

// TURN says whether TURN is there over TLS.
func (c *Config) TURN() bool { return c.TURNCert != "" || c.Cert != "" }
