package issuers

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// reach is how far inside our own network an issuer may live.
type reach int

const (
	reachPublic  reach = iota // public addresses only
	reachPrivate              // and private ones (allow_private)
	reachLocal                // and loopback (insecure)
	reachNowhere              // no issuer lives there, whatever the configuration says
)

// where says what reach an address needs; the first prefix that holds it wins,
// and all other addresses are public.
var where = []struct {
	prefix netip.Prefix
	needs  reach
}{
	// Metadata services inside ranges that are otherwise private or public.
	{netip.MustParsePrefix("100.100.100.200/32"), reachNowhere},
	{netip.MustParsePrefix("168.63.129.16/32"), reachNowhere},
	{netip.MustParsePrefix("fd00:ec2::254/128"), reachNowhere},
	{netip.MustParsePrefix("fd20:ce::254/128"), reachNowhere},

	{netip.MustParsePrefix("127.0.0.0/8"), reachLocal},
	{netip.MustParsePrefix("::1/128"), reachLocal},

	{netip.MustParsePrefix("10.0.0.0/8"), reachPrivate},
	{netip.MustParsePrefix("172.16.0.0/12"), reachPrivate},
	{netip.MustParsePrefix("192.168.0.0/16"), reachPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), reachPrivate}, // carrier-grade NAT
	{netip.MustParsePrefix("fc00::/7"), reachPrivate},

	{netip.MustParsePrefix("0.0.0.0/8"), reachNowhere},      // this host
	{netip.MustParsePrefix("169.254.0.0/16"), reachNowhere}, // link-local, metadata
	{netip.MustParsePrefix("192.0.0.0/24"), reachNowhere},   // protocol assignments, metadata
	{netip.MustParsePrefix("192.0.2.0/24"), reachNowhere},   // documentation
	{netip.MustParsePrefix("198.18.0.0/15"), reachNowhere},  // benchmarking
	{netip.MustParsePrefix("198.51.100.0/24"), reachNowhere},
	{netip.MustParsePrefix("203.0.113.0/24"), reachNowhere},
	{netip.MustParsePrefix("224.0.0.0/3"), reachNowhere}, // multicast, reserved, broadcast
	{netip.MustParsePrefix("::/96"), reachNowhere},       // unspecified, IPv4-compatible
	{netip.MustParsePrefix("64:ff9b:1::/48"), reachNowhere},
	{netip.MustParsePrefix("100::/64"), reachNowhere},
	{netip.MustParsePrefix("2001::/23"), reachNowhere}, // Teredo and other protocols
	{netip.MustParsePrefix("2001:db8::/32"), reachNowhere},
	{netip.MustParsePrefix("fe80::/10"), reachNowhere},
	{netip.MustParsePrefix("fec0::/10"), reachNowhere},
	{netip.MustParsePrefix("ff00::/8"), reachNowhere},
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// needs returns the reach that an address needs. An IPv4 address inside an
// IPv6 one counts as itself.
func needs(a netip.Addr) reach {
	a = a.Unmap().WithZone("")
	b := a.As16()
	switch {
	case nat64.Contains(a):
		a = netip.AddrFrom4([4]byte(b[12:16]))
	case sixTo4.Contains(a):
		a = netip.AddrFrom4([4]byte(b[2:6]))
	}
	for _, w := range where {
		if w.prefix.Contains(a) {
			return w.needs
		}
	}
	return reachPublic
}

// control is a [net.Dialer]'s ControlContext: it sees the address that is
// really dialled, after every name was resolved, so no DNS answer gets past.
func (r reach) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: not an address", address)
	}
	if n := needs(a.Addr()); n == reachNowhere || n > r {
		return fmt.Errorf("dial %s: %s", a.Addr(), n.refusal())
	}
	return nil
}

func (r reach) refusal() string {
	switch r {
	case reachPrivate:
		return "a private address, and allow_private is not set"
	case reachLocal:
		return "a loopback address, and insecure is not set"
	}
	return "no issuer lives at such an address"
}
