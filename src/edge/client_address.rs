//! The address of a client behind proxies.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use poem::{Request, http::HeaderMap};

/// The networks of the proxies whose `X-Forwarded-For` and `traceparent` are believed.
///
/// ```
/// use poem_hanko::TrustedProxies;
///
/// let proxies: TrustedProxies = "10.0.0.0/8, 2001:db8::7".parse()?;
/// # Ok::<(), poem_hanko::TrustedProxiesError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[IpNet]>);

/// The error for an item of a list that is not a network.
///
/// ```
/// use poem_hanko::{TrustedProxies, TrustedProxiesError};
///
/// let error: TrustedProxiesError = "10.0.0.0/8, proxy".parse::<TrustedProxies>().unwrap_err();
/// assert!(error.to_string().starts_with(r#"contains "proxy", which is not a network"#));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "contains {item:?}, which is not a network such as 10.0.0.0/8 or an address such as 10.0.0.7"
)]
pub struct TrustedProxiesError {
    item: String,
}

impl FromStr for TrustedProxies {
    type Err = TrustedProxiesError;

    /// Parses networks in CIDR notation and addresses, separated by commas.
    fn from_str(list: &str) -> Result<Self, TrustedProxiesError> {
        list.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| {
                network(item).ok_or_else(|| TrustedProxiesError {
                    item: item.to_owned(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for TrustedProxies {
    /// Writes the networks, separated by commas.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{network}")?;
        }
        Ok(())
    }
}

impl TrustedProxies {
    /// Returns whether no proxy is trusted.
    ///
    /// ```
    /// use poem_hanko::TrustedProxies;
    ///
    /// assert!(TrustedProxies::default().is_empty());
    /// assert!(!"10.0.0.0/8".parse::<TrustedProxies>()?.is_empty());
    /// # Ok::<(), poem_hanko::TrustedProxiesError>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether this is the address of a trusted proxy. An IPv4-mapped IPv6 address counts as IPv4.
    ///
    /// ```
    /// use poem_hanko::TrustedProxies;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let proxies: TrustedProxies = "10.0.0.0/8".parse()?;
    /// assert!(proxies.contains("10.1.2.3".parse()?));
    /// assert!(proxies.contains("::ffff:10.1.2.3".parse()?));
    /// assert!(!proxies.contains("203.0.113.9".parse()?));
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the client of a request that came from `peer`: the right-most address of all `X-Forwarded-For` fields that is
    /// not a trusted proxy. A client can write anything to the left of what the proxies add.
    ///
    /// The search ends at a malformed entry or after the last one. The client is then the farthest address that was found.
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    ///
    /// use poem::http::{HeaderMap, HeaderValue};
    /// use poem_hanko::TrustedProxies;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let proxies: TrustedProxies = "10.0.0.0/8".parse()?;
    /// let mut headers = HeaderMap::new();
    /// headers.insert("x-forwarded-for", HeaderValue::from_static("1.1.1.1, 203.0.113.9"));
    /// let client = proxies.client(IpAddr::from([10, 1, 2, 3]), &headers);
    /// assert_eq!(client, Ipv4Addr::new(203, 0, 113, 9));
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let entries = headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries {
            if !self.contains(client) {
                break;
            }
            let Some(address) = forwarded_address(entry) else {
                break;
            };
            client = address;
        }
        client
    }

    /// Returns whether a request came from a trusted proxy.
    pub(super) fn sent(&self, request: &Request) -> bool {
        let peer = request.remote_addr().as_socket_addr();
        peer.is_some_and(|peer| self.contains(peer.ip()))
    }

    /// Returns the client of a request, if its connection has an IP address.
    pub(super) fn client_of(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.remote_addr().as_socket_addr()?.ip();
        Some(self.client(peer, request.headers()))
    }
}

/// Returns the client of a request, if its connection has an IP address. Reads the trusted proxies from the request's data.
pub(crate) fn client_address(request: &Request) -> Option<IpAddr> {
    match request.data::<TrustedProxies>() {
        Some(proxies) => proxies.client_of(request),
        None => TrustedProxies::default().client_of(request),
    }
}

/// Parses a network, or an address, which counts as a network of one address.
fn network(item: &str) -> Option<IpNet> {
    /// The bits before the address in an IPv4-mapped IPv6 address.
    const MAPPED_BITS: u8 = 96;

    let network: IpNet = item
        .parse()
        .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    let is_mapped = network.addr().is_ipv6()
        && network.prefix_len() >= MAPPED_BITS
        && network.addr().to_canonical().is_ipv4();
    if is_mapped {
        let bits = network.prefix_len() - MAPPED_BITS;
        return IpNet::new(network.addr().to_canonical(), bits).ok();
    }
    Some(network)
}

/// Parses an entry of `X-Forwarded-For`: an address, to which some proxies add the port.
fn forwarded_address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let address = entry
        .parse()
        .or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    /// Returns the client of a request from `peer` with these `X-Forwarded-For` fields.
    #[track_caller]
    fn client(peer: &str, fields: &[&[u8]]) -> String {
        let proxies: TrustedProxies = "10.0.0.0/8, ::ffff:192.0.2.0/120, 2001:db8::7"
            .parse()
            .unwrap();
        let mut headers = HeaderMap::new();
        for field in fields {
            let value = HeaderValue::from_bytes(field).unwrap();
            headers.append("x-forwarded-for", value);
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("198.51.100.1", &[b"203.0.113.9"]), "198.51.100.1");
        assert_eq!(client("10.1.2.3", &[b"203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("2001:db8::7", &[b"203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("2001:db8::8", &[b"203.0.113.9"]), "2001:db8::8");
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn client_is_the_right_most_untrusted_address() {
        let forged_first: [&[u8]; 2] = [b"1.1.1.1, 203.0.113.9", b"10.9.9.9,192.0.2.4"];
        assert_eq!(client("10.1.2.3", &forged_first), "203.0.113.9");
        assert_eq!(client("10.1.2.3", &[b"203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(client("10.1.2.3", &[b"[2001:db8::1]:80"]), "2001:db8::1");
        // All are proxies: the request came from inside the network.
        assert_eq!(client("10.1.2.3", &[b"10.0.0.5, 10.0.0.6"]), "10.0.0.5");
    }

    #[test]
    fn malformed_entry_ends_the_search() {
        assert_eq!(client("10.1.2.3", &[b"203.0.113.9, unknown"]), "10.1.2.3");
        let fields: [&[u8]; 2] = [b"203.0.113.9,, 10.0.0.6", b"10.0.0.7"];
        assert_eq!(client("10.1.2.3", &fields), "10.0.0.6");
        // Whatever a client writes to the left of the proxy's entry, that entry still counts.
        assert_eq!(client("10.1.2.3", &[b"\xff, 203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn mapped_addresses_count_as_ipv4() {
        assert_eq!(client("::ffff:10.1.2.3", &[b"::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("192.0.2.1", &[b"203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::ffff:9.9.9.9", &[b"1.2.3.4"]), "9.9.9.9");
    }

    #[test]
    fn networks_and_addresses_are_parsed() {
        for wrong in ["10.0.0.0/33", "proxy", "10.0.0", "10.0.0.0/8;::1", "/8"] {
            let list = format!("10.0.0.0/8, {wrong}");
            let error = list.parse::<TrustedProxies>().unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
        let proxies: TrustedProxies = " 10.0.0.1/8 ,, ::1".parse().unwrap();
        assert!(proxies.contains("10.255.0.1".parse().unwrap()));
        assert!(proxies.contains("::1".parse().unwrap()));
        assert!(!proxies.is_empty());
        assert_eq!(proxies.to_string(), "10.0.0.1/8, ::1/128");
        assert!(TrustedProxies::default().is_empty());
    }
}
