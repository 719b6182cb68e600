//! Trusted proxies.

use std::net::IpAddr;

use crate::{
    client_addr::{Network, PRIVATE_NETWORKS, TrustedProxies},
    config_file::{reader::Value, report::Mistake},
};

/// `trusted_proxies = ["10.0.0.0/8", "192.0.2.7", "private", "unix"]`
pub(in crate::config_file) fn read(value: Value<'_>) -> Option<TrustedProxies> {
    let mut trusted = TrustedProxies::default();
    for element in value.list()? {
        match element.measure(proxies) {
            Some(Proxies::Private) => trusted.networks.extend(PRIVATE_NETWORKS),
            Some(Proxies::Network(network)) => trusted.networks.push(network),
            Some(Proxies::Unix) => trusted.unix = true,
            None => {}
        }
    }
    Some(trusted)
}

enum Proxies {
    Private,
    Network(Network),
    Unix,
}

fn proxies(text: &str) -> Result<Proxies, Mistake> {
    match text {
        "private" => Ok(Proxies::Private),
        "unix" => Ok(Proxies::Unix),
        text => network(text).map(Proxies::Network),
    }
}

fn network(text: &str) -> Result<Network, Mistake> {
    let mistake = || {
        Mistake::new(
            format!("`{text}` is not a network"),
            "expected one such as \"10.0.0.0/8\", an IP address, \"private\" or \"unix\"",
        )
    };
    let (address, prefix_bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| mistake())?;
    let address_bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = prefix_bits.map_or(Ok(address_bits), str::parse);
    let network = prefix_bits.ok().and_then(|bits| Network::of(address, bits));
    let network = network.ok_or_else(mistake)?;
    if address.to_canonical() != address {
        let help = "clients with an IPv4 address count as such: write that";
        return Err(mistake().help(help));
    }
    if network.first() != address {
        let what = format!("`{text}` is not the first address of its network");
        let expected = format!("expected \"{network}\", or \"{address}\" alone");
        return Err(Mistake::new(what, expected));
    }
    Ok(network)
}
