//! `admin:`, where the admin API is and who may use it.

use super::{
    diagnostic::{Fault, quote},
    listener::{self, ADDRESS},
    reader::{Field, Keys, Section},
    scalar::Hint,
    unused,
};
use crate::model::{Admin, ListenAddress, Listener, Token, host_without_port};

pub(super) const KEYS: Keys = Keys { section: "admin", names: &["address", "token", "hosts"] };

const TOKEN: &str = "a token of 1 to 1024 visible ASCII characters";
const HOSTS: &str = "a list of host names";
const HOST: &str = "a host name such as lb.example.com or an IP address, without a port";

/// Reads `admin:`.
pub(super) fn read(field: &Field<'_>) -> Option<Admin> {
    let section = field.section(&KEYS)?;
    let address = section.require("address", ADDRESS);
    let address = address.and_then(|field| listener::any_address(&field));
    let token = section.try_or("token", None, |field| field.scalar(TOKEN, token).map(Some));
    let hosts = section.or("hosts", Vec::new(), hosts);
    let (address, token) = (address?, token?);
    check_token(&section, &address, token.as_ref());
    let admin = Admin { address, token, hosts };
    unused::admin(&section, &admin);
    Some(admin)
}

/// Whoever is not on this machine has to show a token.
fn check_token(section: &Section<'_>, address: &ListenAddress, token: Option<&Token>) {
    if token.is_some() || Admin::is_local(address) {
        return;
    }
    if let Some(field) = section.get("address") {
        let found = format!(
            "{}, which other machines can reach, without a token",
            quote(&address.to_string())
        );
        field.error(&Fault::new(
            found,
            "token beside it, or a loopback address such as 127.0.0.1:9901",
        ));
    }
}

/// It has its address to itself.
pub(super) fn check_address(field: &Field<'_>, admin: &Admin, listeners: &[Listener]) {
    let same = listeners.iter().find(|listener| listener.address.meets(&admin.address));
    let Some(listener) = same else { return };
    let found = format!("duplicate address {}", quote(&admin.address.to_string()));
    let expected = format!(
        "an address that no listener has; listener {} has {}",
        listener.name, listener.address
    );
    if let Some(field) = field.section(&KEYS).and_then(|section| section.get("address")) {
        field.error(&Fault::new(found, expected));
    }
}

/// Messages go to logs, so they never say what it is.
fn token(text: &str) -> Result<Token, Hint> {
    let found = || format!("found one of {} bytes", text.len());
    Token::new(text).ok_or_else(|| Hint { found: Some(found()), ..Hint::default() })
}

fn hosts(field: &Field<'_>) -> Option<Vec<String>> {
    let items = field.items(HOSTS)?;
    Some(items.iter().filter_map(|item| item.scalar(HOST, host)).collect())
}

fn host(text: &str) -> Result<String, Hint> {
    let bare = host_without_port(text);
    let clean = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@*".contains(&byte))
    };
    match (clean(text), bare == text) {
        (true, true) => Ok(text.to_ascii_lowercase()),
        (true, false) if clean(bare) => Err(Hint::nearest(Some(bare.to_owned()))),
        _ => Err(Hint::default()),
    }
}
