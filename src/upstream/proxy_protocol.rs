//! PROXY protocol header, which tells an upstream the address of its client.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Encodes the header for a client at `source` that connected to `destination`; if either is
/// unknown, the header says so.
#[must_use]
pub(super) fn header(
    version: ProxyProtocolVersion,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
) -> Vec<u8> {
    /// Offset of the command in version 2, and its value `PROXY`.
    const COMMAND: (usize, u8) = (12, 0x21);
    let addresses = source.zip(destination).map(of_one_family);
    let header = addresses.map_or_else(ProxyHeader::with_local, |(source, destination)| {
        ProxyHeader::with_address(ProxiedAddress::stream(source, destination))
    });
    let mut bytes = Vec::with_capacity(64);
    let encoded = match version {
        ProxyProtocolVersion::V1 => header.encode_v1(&mut bytes),
        ProxyProtocolVersion::V2 => header.encode_v2(&mut bytes),
    };
    encoded.expect("both addresses are of one family, and there are no extensions");
    if version == ProxyProtocolVersion::V2 {
        // Without addresses it would be `LOCAL`, which is meant for the proxy's own health checks.
        bytes[COMMAND.0] = COMMAND.1;
    }
    bytes
}

/// Maps two addresses to one family, the only form that a header allows.
fn of_one_family(addresses: (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let (source, destination) = addresses;
    if source.is_ipv4() == destination.is_ipv4() {
        return addresses;
    }
    (mapped(source), mapped(destination))
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: Option<&str>, destination: Option<&str>) -> String {
        let address = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let header = header(
            ProxyProtocolVersion::V1,
            address(source),
            address(destination),
        );
        String::from_utf8(header).unwrap()
    }

    #[test]
    fn version_1_is_a_line() {
        assert_eq!(
            text(Some("192.0.2.7:4660"), Some("10.0.0.1:443")),
            "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n"
        );
        assert_eq!(
            text(Some("[2001:db8::7]:1"), Some("[::1]:2")),
            "PROXY TCP6 2001:db8::7 ::1 1 2\r\n"
        );
        assert_eq!(
            text(Some("192.0.2.7:1"), Some("[::1]:2")),
            "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"
        );
        assert_eq!(text(None, Some("10.0.0.1:443")), "PROXY UNKNOWN\r\n");
        assert_eq!(text(Some("10.0.0.1:443"), None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let source = "192.0.2.7:4660".parse().unwrap();
        let destination = "10.0.0.1:443".parse().unwrap();
        assert_eq!(
            header(ProxyProtocolVersion::V2, Some(source), Some(destination)),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\x01\xbb"
        );
        assert_eq!(
            header(ProxyProtocolVersion::V2, None, None),
            b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"
        );
    }
}
