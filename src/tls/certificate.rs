//! What a certificate says: whose it is, for which names, and for how long.

use crate::model::Validity;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use std::net::{Ipv4Addr, Ipv6Addr};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::ToDer as _,
    extensions::GeneralName,
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name},
};

/// A certificate whose form is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate that cannot be understood")]
pub struct Malformed;

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| Malformed)
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    // One that names nobody is as good as one that cannot be read: nothing is believed of it.
    let names = certificate.subject_alternative_name().ok().flatten();
    names.map_or(&[], |names| &names.value.general_names)
}

/// What a certificate of ours says.
pub(super) struct Particulars {
    pub(super) names: Vec<String>,
    pub(super) validity: Validity,
}

impl Particulars {
    pub(super) fn of(der: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let certificate = parse(der)?;
        Ok(Self { names: host_names(&certificate), validity: validity(&certificate) })
    }
}

/// For how long an authority's certificate is a server's as well, if nothing but its being an authority's
/// speaks against that: it has names, and may be used for a server.
pub(super) fn serving_authority(der: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = parse(der).ok()?;
    let constraints = certificate.basic_constraints().ok()??.value;
    let serves = match certificate.extended_key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.server_auth),
        Err(_) => false,
    };
    let named = !alternative_names(&certificate).is_empty();
    (constraints.ca && serves && named).then(|| validity(&certificate))
}

fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() }
}

/// The host names that a certificate is for, in lower case. Only where it has none of them does the
/// common name count (RFC 6125, 6.4.4), which old tools still make.
fn host_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = alternative_names(certificate).iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().iter_common_name();
    common.filter_map(|name| name.as_str().ok()).map(str::to_ascii_lowercase).collect()
}

/// Who a client is, by a certificate that was verified. Both are header values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, as in RFC 4514: `CN=client,O=Example`. `None` if that is empty.
    pub subject: Option<HeaderValue>,
    /// Its alternative names: `DNS:a.example, URI:spiffe://example/a`. `None` if it has none.
    pub san: Option<HeaderValue>,
}

impl ClientCertificate {
    pub(super) fn of(der: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let certificate = parse(der)?;
        let value = |text: String| match text.as_str() {
            "" => Ok(None),
            text => HeaderValue::from_str(text).map(Some).map_err(|_| Malformed),
        };
        Ok(Self {
            subject: value(distinguished_name(certificate.subject()))?,
            san: value(names_as_text(alternative_names(&certificate)))?,
        })
    }
}

/// A name as RFC 4514 writes it: the most specific part first, ASCII only, and whatever a value
/// has in it, it cannot be taken for another part.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<&RelativeDistinguishedName<'_>> = name.iter_rdn().collect();
    let parts: Vec<String> = parts.into_iter().rev().map(relative_name).collect();
    parts.join(",")
}

fn relative_name(part: &RelativeDistinguishedName<'_>) -> String {
    let attributes: Vec<String> = part.iter().map(attribute).collect();
    attributes.join("+")
}

/// The short names that RFC 4514 knows, and two that OpenSSL writes beyond it.
const SHORT_NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
    match (short, attribute.as_str()) {
        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
        // RFC 4514, 2.4: the encoding itself, in hexadecimal digits.
        (short, _) => {
            let encoding = attribute.attr_value().to_der_vec().unwrap_or_default();
            let mut text = format!("{}=#", short.unwrap_or(&oid));
            for byte in encoding {
                push_hex(&mut text, byte);
            }
            text
        }
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 8);
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let at_an_end = (byte == b' ' && (at == 0 || at == last)) || (byte == b'#' && at == 0);
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.extend(['\\', char::from(byte)]);
            }
            b' ' | b'#' if at_an_end => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                push_hex(&mut text, byte);
            }
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The names of those kinds that identify a client, in the form in which OpenSSL prints them.
fn names_as_text(names: &[GeneralName<'_>]) -> String {
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", encoded(name))),
        GeneralName::RFC822Name(name) => Some(format!("email:{}", encoded(name))),
        GeneralName::URI(name) => Some(format!("URI:{}", encoded(name))),
        GeneralName::IPAddress(bytes) => Some(format!("IP:{}", address(bytes)?)),
        _ => None,
    };
    names.iter().filter_map(text).collect::<Vec<_>>().join(", ")
}

/// A name in which nothing separates: commas, spaces and what is not ASCII are percent-encoded.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b',' {
            text.push(char::from(byte));
        } else {
            text.push('%');
            push_hex(&mut text, byte);
        }
    }
    text
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn names(of: &CertificateDer<'_>) -> Vec<String> {
        Particulars::of(of).unwrap().names
    }

    #[test]
    fn a_common_name_counts_only_where_there_is_no_other() {
        let common = |params: &mut CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, "Common.example");
        };
        assert_eq!(names(&certificate(common)), ["common.example"]);
        let both = certificate(|params| {
            common(params);
            params.subject_alt_names = vec![
                SanType::DnsName("WWW.Example".try_into().unwrap()),
                SanType::DnsName("*.example".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
        });
        assert_eq!(names(&both), ["www.example", "*.example"]);
    }

    #[test]
    fn validity_is_read() {
        let certificate = certificate(|params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let validity = Particulars::of(&certificate).unwrap().validity;
        assert_eq!((validity.from, validity.until), (1_577_836_800, 1_609_459_200));
    }

    #[test]
    fn a_subject_is_written_from_the_most_specific_part_on() {
        let client = ClientCertificate::of(&certificate(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, "Example");
            name.push(DnType::CommonName, "client-1");
        }));
        assert_eq!(client.unwrap().subject.unwrap(), "CN=client-1,O=Example,C=DE");
    }

    #[test]
    fn no_value_can_be_taken_for_another_part() {
        let cases = [
            ("a, CN=admin", "CN=a\\, CN=admin"),
            ("a+O=b", "CN=a\\+O=b"),
            (" # ", "CN=\\ #\\ "),
            ("#1", "CN=\\#1"),
            ("a\\", "CN=a\\\\"),
            ("a\r\nb", "CN=a\\0D\\0Ab"),
            ("Zo\u{eb}", "CN=Zo\\C3\\AB"),
        ];
        for (value, expected) in cases {
            let client = ClientCertificate::of(&certificate(|params| {
                params.distinguished_name.push(DnType::CommonName, value);
            }));
            assert_eq!(client.unwrap().subject.unwrap(), expected, "{value:?}");
        }
    }

    #[test]
    fn unknown_attributes_are_written_as_they_are_encoded() {
        let client = ClientCertificate::of(&certificate(|params| {
            params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "ab");
        }));
        assert_eq!(client.unwrap().subject.unwrap(), "1.2.3.4=#0C026162");
    }

    #[test]
    fn alternative_names_are_a_list_that_no_name_can_lengthen() {
        let client = ClientCertificate::of(&certificate(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.example, DNS:admin".try_into().unwrap()),
                SanType::Rfc822Name("a@b.example".try_into().unwrap()),
                SanType::URI("spiffe://example/a".try_into().unwrap()),
                SanType::IpAddress("2001:db8::1".parse().unwrap()),
            ];
        }));
        assert_eq!(
            client.unwrap(),
            ClientCertificate {
                subject: None,
                san: Some(HeaderValue::from_static(
                    "DNS:a.example%2C%20DNS:admin, email:a@b.example, URI:spiffe://example/a, \
                     IP:2001:db8::1"
                )),
            }
        );
    }

    #[test]
    fn alternative_names_that_cannot_be_read_are_none() {
        let certificate = certificate(|params| {
            let id = [2, 5, 29, 17];
            params.custom_extensions = vec![CustomExtension::from_oid_content(&id, vec![1, 2, 3])];
        });
        assert_eq!(names(&certificate), [""; 0]);
        assert_eq!(ClientCertificate::of(&certificate).unwrap().san, None);
    }

    #[test]
    fn what_is_no_certificate_is_malformed() {
        let nonsense = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x01]);
        assert_eq!(ClientCertificate::of(&nonsense), Err(Malformed));
    }
}
