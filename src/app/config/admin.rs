use std::net::{IpAddr, SocketAddr};

use super::{ConfigErrors, Lookup, Reader, http};

/// Reads `ADMIN_ADDRESS`, the address of a separate listener for probes and metrics.
pub(super) fn read_admin_address(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    reader.optional("ADMIN_ADDRESS", |value| {
        let address = value.strip_prefix("localhost:").map_or_else(
            || value.to_owned(),
            |port| format!("{}:{port}", IpAddr::from([127, 0, 0, 1])),
        );
        address.parse().map_err(|_| {
            "is not an IP address and a port, such as 127.0.0.1:9000 or [::]:9000".to_owned()
        })
    })
}

/// Where the running instance serves its probes.
pub(crate) enum ProbeAddress {
    /// On the admin listener.
    Admin(SocketAddr),
    /// On the listener of the API.
    Api(SocketAddr),
}

/// Reads where the running instance serves its probes.
///
/// # Errors
/// All errors in these variables.
pub(crate) fn probe_address(lookup: &Lookup<'_>) -> Result<ProbeAddress, ConfigErrors> {
    let mut reader = Reader::new(lookup);
    let address = match read_admin_address(&mut reader) {
        Some(address) => ProbeAddress::Admin(address),
        None => {
            let host = http::read_host(&mut reader);
            let port = http::read_port(&mut reader);
            ProbeAddress::Api(SocketAddr::new(host, port))
        }
    };
    reader.finish(address)
}
