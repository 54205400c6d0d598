package relayaddr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	// metadataURL is where clouds tell a machine about itself. It is link-local: nobody else is asked.
	metadataURL = "http://169.254.169.254"

	// metadataWait bounds the question. Where there is no cloud a start must not take longer for it.
	metadataWait = 300 * time.Millisecond

	// addressLimit bounds the size of an answer, which is an address.
	addressLimit = 64
)

// cloud is the metadata service of the cloud that this machine may run in.
type cloud struct {
	url  string
	wait time.Duration
}

// A question is how one kind of cloud is asked for the public IPv4 address of the machine.
type question struct {
	cloud, path, header, value string
	// token is where a value for the header is had first, empty when that is fixed.
	token string
}

var questions = []question{
	{"AWS", "/latest/meta-data/public-ipv4", "X-aws-ec2-metadata-token", "", "/latest/api/token"},
	{"OpenStack", "/latest/meta-data/public-ipv4", "", "", ""},
	{"Google Cloud", "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip", "Metadata-Flavor", "Google", ""},
	{"Azure", "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress?api-version=2021-02-01&format=text", "Metadata", "true", ""},
	{"DigitalOcean", "/metadata/v1/interfaces/public/0/ipv4/address", "", "", ""},
	{"Hetzner", "/hetzner/v1/metadata/public-ipv4", "", "", ""},
}

// externalIP asks for the public IPv4 address of this machine in the ways of all clouds at once, and returns the first answer
// that is one. It is invalid when none comes at once.
func (c cloud) externalIP(ctx context.Context) (seen netip.Addr, source string) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true} // Never through a proxy.
	type answer struct {
		seen  netip.Addr
		cloud string
	}
	answers := make(chan answer, len(questions))
	for _, q := range questions {
		go func() {
			addr, _ := c.ask(ctx, transport, q) // Five of six are none of this cloud.
			answers <- answer{addr, q.cloud}
		}()
	}
	for range questions { // All end with ctx.
		if a := <-answers; a.seen.IsValid() && !seen.IsValid() {
			seen, source = a.seen, a.cloud
			cancel()
		}
	}
	return seen, source
}

func (c cloud) ask(ctx context.Context, transport *http.Transport, q question) (netip.Addr, error) {
	if q.token != "" {
		var err error
		q.value, err = c.get(ctx, transport, http.MethodPut, q.token, q.header+"-ttl-seconds", "60")
		if err != nil {
			return netip.Addr{}, err
		}
	}
	text, err := c.get(ctx, transport, http.MethodGet, q.path, q.header, q.value)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := Parse(text)
	if err == nil && (!addr.Is4() || isTranslated(addr)) {
		err = errors.New("no public IPv4 address")
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return addr, nil
}

func (c cloud) get(ctx context.Context, transport *http.Transport, method, path, header, value string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, nil)
	if err != nil {
		return "", err
	}
	if header != "" {
		request.Header.Set(header, value)
	}
	response, err := transport.RoundTrip(request) // It follows nobody to another address.
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", path, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, addressLimit))
	return strings.TrimSpace(string(body)), err
}
