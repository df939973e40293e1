//! The host that a request asks for.

/// The host of an authority (`host`, `host:port`, `[v6]:port`) without its port.
///
/// The brackets of an IPv6 address stay, as they do in a URL. A single trailing dot, which makes a
/// name absolute in DNS but means the same host, is dropped; a second one is not. The case is left
/// alone.
///
/// ```
/// use pingora_lb::model::host_without_port;
/// assert_eq!(host_without_port("www.example.com.:8080"), "www.example.com");
/// assert_eq!(host_without_port("[::1]:8080"), "[::1]");
/// ```
pub fn host_without_port(authority: &str) -> &str {
    let end = if authority.starts_with('[') {
        memchr::memchr(b']', authority.as_bytes()).map(|bracket| bracket + 1)
    } else {
        memchr::memchr(b':', authority.as_bytes())
    };
    let host = end.map_or(authority, |end| &authority[..end]);
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_port_off_a_host() {
        let cases = [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:80", "a.example"),
            ("a.example..", "a.example."),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[::1", "[::1"),
            (":80", ""),
            ("", ""),
        ];
        for (authority, host) in cases {
            assert_eq!(host_without_port(authority), host, "{authority}");
        }
    }
}
