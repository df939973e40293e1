//! `ip_filter`: who may come in, by address.

use crate::filter::{
    Answer, Filter, Flow, Request, Result, SettingsError, Setup, settings::Network,
};
use http::StatusCode;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::IpAddr;

/// The networks that are let in and those that are not.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Networks that are let in. If there are any, all others are refused.
    #[serde(default)]
    allow: Vec<Network>,
    /// Networks that are refused, whatever `allow` says.
    #[serde(default)]
    deny: Vec<Network>,
}

/// Refuses clients by their address, with 403.
#[derive(Debug)]
pub(super) struct IpFilter {
    /// `None` lets everybody in.
    allow: Option<Networks>,
    deny: Networks,
}

impl Filter for IpFilter {
    const NAME: &'static str = "ip_filter";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(Settings { allow, deny }: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        if allow.is_empty() && deny.is_empty() {
            return Err(SettingsError::new("no networks", "some in allow or deny"));
        }
        let deny = Networks::new(&deny);
        if let Some(at) = allow.iter().position(|network| deny.cover(network)) {
            let found = format!("network {}, all of which is in deny", *allow[at]);
            let expected = "a network that deny leaves something of";
            return Err(SettingsError::new(found, expected).at(format!("allow[{at}]")));
        }
        let allow = (!allow.is_empty()).then(|| Networks::new(&allow));
        Ok(Self { allow, deny })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if self.admits(request.client_ip()) {
            return Ok(Flow::Continue);
        }
        Ok(Answer::new(StatusCode::FORBIDDEN).into())
    }
}

impl IpFilter {
    /// Whether a client is let in. One on a unix socket has no address: it is in no network.
    fn admits(&self, client: Option<IpAddr>) -> bool {
        let is_in = |networks: &Networks| client.is_some_and(|client| networks.contain(client));
        !is_in(&self.deny) && self.allow.as_ref().is_none_or(is_in)
    }
}

/// Networks by address family. An IPv6 address that stands for an IPv4 one counts as that.
#[derive(Debug)]
struct Networks {
    v4: Ranges,
    v6: Ranges,
}

impl Networks {
    fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            let (is_v4, range) = range_of(network);
            let ranges = if is_v4 { &mut v4 } else { &mut v6 };
            ranges.push(range);
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    fn contain(&self, address: IpAddr) -> bool {
        let (is_v4, number) = number_of(address);
        self.of(is_v4).cover((number, number))
    }

    /// Whether all of a network is in these.
    fn cover(&self, network: &IpNet) -> bool {
        let (is_v4, range) = range_of(network);
        self.of(is_v4).cover(range)
    }

    fn of(&self, is_v4: bool) -> &Ranges {
        if is_v4 { &self.v4 } else { &self.v6 }
    }
}

/// The first and the last number of a range.
type Range = (u128, u128);

/// Whether a network is one of IPv4, and its addresses.
fn range_of(network: &IpNet) -> (bool, Range) {
    let (first, last) = (number_of(network.network()), number_of(network.broadcast()));
    if first.0 == last.0 {
        return (first.0, (first.1, last.1));
    }
    // One that is wider than the part of IPv6 that stands for IPv4, such as `::/0`: what is meant
    // is IPv6.
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (false, (number(network.network()), number(network.broadcast())))
}

/// Whether an address is one of IPv4, and its number.
fn number_of(address: IpAddr) -> (bool, u128) {
    match address.to_canonical() {
        IpAddr::V4(address) => (true, u128::from(u32::from(address))),
        IpAddr::V6(address) => (false, u128::from(address)),
    }
}

/// Ranges in order, none of which touches another: a number is looked up in as many steps as their
/// count has binary digits.
#[derive(Debug)]
struct Ranges(Box<[Range]>);

impl Ranges {
    fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let touches = next.0 <= kept.1.saturating_add(1);
            if touches {
                kept.1 = kept.1.max(next.1);
            }
            touches
        });
        Self(ranges.into())
    }

    /// Whether all of a range is in one of these.
    fn cover(&self, (first, last): Range) -> bool {
        let after = self.0.partition_point(|range| range.0 <= first);
        after.checked_sub(1).is_some_and(|at| last <= self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network(text.parse().unwrap())).collect()
    }

    #[test]
    fn families_do_not_mix_but_mapped_addresses_are_ipv4() {
        let contains = |network: &str, address: &str| {
            Networks::new(&networks(&[network])).contain(address.parse().unwrap())
        };
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::a00:1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::/0", "10.1.2.3", false),
            ("::/0", "::ffff:10.1.2.3", false),
            ("::/0", "2001:db8::1", true),
            ("0.0.0.0/0", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
        ] {
            assert_eq!(contains(network, address), expected, "{address} in {network}");
        }
    }

    #[test]
    fn clients_without_an_address_are_in_no_network() {
        let filter = |allow: &[&str], deny: &[&str]| IpFilter {
            allow: (!allow.is_empty()).then(|| Networks::new(&networks(allow))),
            deny: Networks::new(&networks(deny)),
        };
        assert!(!filter(&["0.0.0.0/0", "::/0"], &[]).admits(None));
        assert!(filter(&[], &["0.0.0.0/0", "::/0"]).admits(None));
    }

    proptest! {
        /// The ranges say what a look at each network would say.
        #[test]
        fn ranges_say_what_the_networks_say(
            nets in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u8..=32), 0..40),
            addresses in prop::collection::vec((any::<u8>(), any::<u8>()), 20),
        ) {
            // Few distinct bits, so that networks overlap, touch and hold the addresses.
            let address = |a: u8, b: u8| std::net::Ipv4Addr::new(10, a & 3, 0, b & 15);
            let nets: Vec<Network> = nets
                .into_iter()
                .map(|(a, b, length)| IpNet::new(address(a, b).into(), length).unwrap().trunc())
                .map(Network)
                .collect();
            let found = Networks::new(&nets);
            for (a, b) in addresses {
                let address = IpAddr::from(address(a, b));
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(found.contain(address), expected, "{} in {:?}", address, nets);
            }
            prop_assert!(found.v4.0.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
    }
}
