//! What a TLS client begins with, as bytes.

/// `bytes` behind their length, which takes `size` bytes.
fn with_length(bytes: &[u8], size: usize) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[4 - size..], bytes].concat()
}

/// The extension that names a host.
fn server_name(host: &str) -> Vec<u8> {
    let name = [&[0][..], &with_length(host.as_bytes(), 2)].concat();
    [&[0, 0][..], &with_length(&with_length(&name, 2), 2)].concat()
}

/// The message of a hello that asks for this name, or for none. It offers what clients offered in
/// the days of TLS 1.0, and no more: who passes it on has no say in that.
pub fn hello_message(name: Option<&str>) -> Vec<u8> {
    let unknown = [&[0x4a, 0x4a][..], &with_length(b"grease", 2)].concat();
    let extensions = [unknown, name.map(server_name).unwrap_or_default()].concat();
    let mut body = vec![3, 1];
    body.extend([42; 32]); // the random
    body.extend([0]); // no session
    body.extend(with_length(&[0, 0x2f], 2)); // TLS_RSA_WITH_AES_128_CBC_SHA
    body.extend(with_length(&[0], 1)); // no compression
    body.extend(with_length(&extensions, 2));
    [&[1][..], &with_length(&body, 3)].concat()
}

/// A record of the handshake.
pub fn handshake_record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &with_length(fragment, 2)].concat()
}

/// A hello that asks for this name, or for none.
pub fn client_hello(name: Option<&str>) -> Vec<u8> {
    handshake_record(&hello_message(name))
}
