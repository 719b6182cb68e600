//! Addresses of listeners and upstreams.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::Uri;

use crate::config_file::{reader::Value, report::Mistake};
use crate::{config::ListenAddress, upstream::Address};

/// Parses `"0.0.0.0:8080"`, `"[::]:8080"` or `"unix:/path.sock"`.
///
/// # Errors
///
/// The mistake in `text`.
pub fn listen(text: &str) -> Result<ListenAddress, Mistake> {
    listen_address(text, EVERYWHERE).map_err(|mistake| mistake.about(text))
}

/// Parses the address of a listener for this machine alone, like [`listen`].
///
/// # Errors
///
/// The mistake in `text`.
pub fn admin_listen(text: &str) -> Result<ListenAddress, Mistake> {
    listen_address(text, LOOPBACK).map_err(|mistake| mistake.about(text))
}

/// Hosts suggested for a bare port: of listeners, and of the admin listener.
pub(in crate::config_file) const EVERYWHERE: &str = "0.0.0.0";
pub(in crate::config_file) const LOOPBACK: &str = "127.0.0.1";

fn listen_address(text: &str, default: &str) -> Result<ListenAddress, Mistake> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(|path| ListenAddress::Unix(path.into()));
    }
    text.parse().map(ListenAddress::Tcp).map_err(|_| {
        let mistake = Mistake::new(
            format!("`{text}` is not an address to listen on"),
            "expected an IP address and a port, or \"unix:/path.sock\"",
        );
        match meant(text, default) {
            Some(address) if address.starts_with(EVERYWHERE) => {
                mistake.help(format!("for all interfaces write \"{address}\""))
            }
            Some(address) => mistake.help(format!("write \"{address}\"")),
            None => mistake,
        }
    })
}

/// Parses the address of the admin listener, like [`listen`]; `""` is none.
///
/// # Errors
///
/// The mistake in `text`.
pub fn admin(text: &str) -> Result<Option<ListenAddress>, Mistake> {
    match text {
        "" => Ok(None),
        text => admin_listen(text).map(Some),
    }
}

/// Returns the address that `text` most likely means; a bare port is one of `default`.
pub(in crate::config_file) fn meant(text: &str, default: &str) -> Option<String> {
    /// Port when `text` has none.
    const PORT: u16 = 8080;
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.to_string());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT).to_string());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.parse().ok()?;
    match host {
        "" => Some(format!("{default}:{port}")),
        "*" => Some(format!("{EVERYWHERE}:{port}")),
        "localhost" => Some(format!("{LOOPBACK}:{port}")),
        _ => None,
    }
}

/// Address of an upstream, and its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Address.
    pub address: Address,
    /// Uses TLS.
    pub is_tls: bool,
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "{scheme}://[{host}]:{port}")
            }
            Address::Tcp { host, port } => write!(formatter, "{scheme}://{host}:{port}"),
            Address::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Parses `"http://host:port"`, `"https://host"`, `"http://[::1]:port"` or `"unix:/path.sock"`.
///
/// # Errors
///
/// The mistake in `text`.
pub fn upstream(text: &str) -> Result<Upstream, Mistake> {
    upstream_address(text).map_err(|mistake| mistake.about(text))
}

/// Reads the upstream of a route, which has only one.
pub(in crate::config_file) fn only_upstream(value: Value<'_>) -> Option<Upstream> {
    let expected = "expected one address, such as \"http://127.0.0.1:8081\"";
    let help = "where a name has several addresses, they are tried in turn";
    value.alone(expected, help)?.measure(upstream)
}

fn upstream_address(text: &str) -> Result<Upstream, Mistake> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(|path| Upstream {
            address: Address::Unix(path.into()),
            is_tls: false,
        });
    }
    let mistake = || {
        Mistake::new(
            format!("`{text}` is not the address of an upstream"),
            "expected \"http://host:port\", \"https://host:port\" or \"unix:/path.sock\"",
        )
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        let help = format!("write \"http://{text}\"");
        let is_address = text.parse::<http::uri::Authority>().is_ok();
        return Err(if is_address {
            mistake().help(help)
        } else {
            mistake()
        });
    };
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        "ws" => return Err(mistake().help(format!("write \"http://{rest}\""))),
        "wss" => return Err(mistake().help(format!("write \"https://{rest}\""))),
        _ => return Err(mistake()),
    };
    let uri: Uri = text.parse().map_err(|_| mistake())?;
    if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
        return Err(mistake().help("leave the path out: the upstream gets the client's"));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(
            mistake().help("leave the user name out: the upstream gets the client's headers")
        );
    }
    let default_port = if is_tls { 443 } else { 80 };
    let address = tcp(&uri, default_port).ok_or_else(mistake)?;
    Ok(Upstream { address, is_tls })
}

fn tcp(uri: &Uri, default_port: u16) -> Option<Address> {
    let host = uri.host().filter(|host| !host.is_empty())?;
    let has_port = uri.authority()?.as_str().len() > host.len();
    // A port that is there but no port is an error, not the default.
    let port = match (has_port, uri.port_u16()) {
        (true, port) => port.filter(|port| *port != 0)?,
        (false, _) => default_port,
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(address) = bracketed {
        let address = SocketAddr::new(address.parse().ok()?, port);
        return address.is_ipv6().then(|| Address::Tcp {
            host: address.ip().to_string(),
            port,
        });
    }
    Some(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn socket_path(path: &str) -> Result<&str, Mistake> {
    /// Size of `sun_path` without the final NUL.
    const MAX_PATH_BYTES: usize = 107;
    if !path.starts_with('/') {
        return Err(Mistake::new(
            format!("`{path}` is not an absolute path"),
            "expected \"unix:/path.sock\"",
        ));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Mistake::new(
            format!("`{path}` is too long for a Unix socket"),
            format!("expected at most {MAX_PATH_BYTES} bytes"),
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Upstream {
        let host = host.to_owned();
        Upstream {
            address: Address::Tcp { host, port },
            is_tls: false,
        }
    }

    fn tls(host: &str, port: u16) -> Upstream {
        Upstream {
            is_tls: true,
            ..tcp(host, port)
        }
    }

    #[test]
    fn an_upstream_is_a_host_and_a_port_or_a_unix_socket() {
        assert_eq!(
            upstream("http://127.0.0.1:8081"),
            Ok(tcp("127.0.0.1", 8081))
        );
        assert_eq!(upstream("http://backend:9/"), Ok(tcp("backend", 9)));
        assert_eq!(upstream("HTTP://backend"), Ok(tcp("backend", 80)));
        assert_eq!(upstream("http://[::1]:8081"), Ok(tcp("::1", 8081)));
        assert_eq!(upstream("http://[::1]"), Ok(tcp("::1", 80)));
        assert_eq!(upstream("https://backend"), Ok(tls("backend", 443)));
        assert_eq!(upstream("https://backend:8443"), Ok(tls("backend", 8443)));
        assert_eq!(
            upstream("unix:/run/backend.sock"),
            Ok(Upstream {
                address: Address::Unix("/run/backend.sock".into()),
                is_tls: false
            })
        );
    }

    #[test]
    fn what_an_upstream_cannot_be_is_explained() {
        for (text, explanation) in [
            ("127.0.0.1:8081", "write \"http://127.0.0.1:8081\""),
            ("ws://backend:1", "write \"http://backend:1\""),
            ("wss://backend", "write \"https://backend\""),
            ("http://backend/api", "leave the path out"),
            ("http://backend:1?x", "leave the path out"),
            ("http://backend:1#x", "leave the path out"),
            ("http://me:secret@backend:1", "leave the user name out"),
            ("http://backend:99999", "is not the address"),
            ("http://backend:0", "is not the address"),
            ("http://backend:", "is not the address"),
            ("http://:80", "is not the address"),
            ("http://[::1", "is not the address"),
            ("http://", "is not the address"),
            ("", "is not the address"),
            ("ftp://backend", "is not the address"),
            ("unix:backend.sock", "is not an absolute path"),
        ] {
            let mistake = upstream(text).unwrap_err().to_string();
            assert!(mistake.contains(explanation), "{text}: {mistake}");
        }
    }

    #[test]
    fn a_listener_has_an_ip_address_and_a_port_or_a_unix_socket() {
        assert_eq!(
            listen("[::]:8080"),
            Ok(ListenAddress::Tcp(([0_u16; 8], 8080).into()))
        );
        assert_eq!(
            listen("unix:/run/gate.sock"),
            Ok(ListenAddress::Unix("/run/gate.sock".into()))
        );
    }

    #[test]
    fn what_a_listener_cannot_be_is_explained() {
        for (text, explanation) in [
            ("8080", "write \"0.0.0.0:8080\""),
            (":8080", "write \"0.0.0.0:8080\""),
            ("localhost:8080", "write \"127.0.0.1:8080\""),
            ("127.0.0.1", "write \"127.0.0.1:8080\""),
            ("::1", "write \"[::1]:8080\""),
            ("a.example:80", "expected an IP address and a port"),
            ("0.0.0.0:eighty", "expected an IP address and a port"),
            ("unix:gate.sock", "is not an absolute path"),
        ] {
            let mistake = listen(text).unwrap_err().to_string();
            assert!(mistake.contains(explanation), "{text}: {mistake}");
        }
    }
}
