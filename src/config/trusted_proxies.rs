//! `trusted_proxies:`, the networks whose `X-Forwarded-*` fields are believed.

use super::{
    diagnostic::{Fault, quote},
    reader::Field,
    scalar::Hint,
};
use ipnet::IpNet;
use std::net::IpAddr;

const EXPECTED: &str = "a list of networks such as 10.0.0.0/8";
const NETWORK: &str = "a network such as 10.0.0.0/8 or fd00::/8, or an IP address";

/// Reads a list of networks, which may be empty.
pub(super) fn read(field: &Field<'_>) -> Option<Vec<IpNet>> {
    let items = field.items(EXPECTED)?;
    Some(items.iter().filter_map(network).collect())
}

fn network(field: &Field<'_>) -> Option<IpNet> {
    let network = field.scalar(NETWORK, |text| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| address()).map_err(|_| Hint::default())
    })?;
    let exact = network.trunc();
    if exact != network {
        let found = format!("found {}", quote(&network.to_string()));
        let expected = format!("an address without bits after the prefix; it is read as {exact}");
        field.warning(&Fault::new(found, expected));
    }
    Some(exact)
}
