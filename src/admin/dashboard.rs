//! `GET /`: a page for people, made of files that are in the program.
//!
//! It shows what the API tells and asks it for changes, like any other client. So it holds no secret,
//! and where a token is wanted it is the page that asks for it.
//!
//! Nothing but what is in these files may run in it or dress it: the policy names their hashes. It
//! loads nothing from elsewhere and cannot be put into the frame of another page.

use super::answer::{self, Answer};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header, request::Parts};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
const SCRIPT: &str =
    concat!(include_str!("dashboard/charts.js"), include_str!("dashboard/page.js"));
/// Where they belong in the page.
const STYLE_PLACE: &str = "/*style*/";
const SCRIPT_PLACE: &str = "/*script*/";

/// Whether a request is that of a browser that wants to show something, rather than a program's.
pub(super) fn is_wanted(head: &Parts) -> bool {
    let accepted = head.headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|accepted| accepted.to_ascii_lowercase().contains("text/html"))
}

/// The page.
pub(super) fn page() -> Answer {
    let mut page = answer::page(PAGE.replace(STYLE_PLACE, STYLE).replace(SCRIPT_PLACE, SCRIPT));
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy());
    for (name, value) in [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (http::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (http::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    page
}

/// The page for who has not shown the token: the same, with the status and the challenge of `refusal`.
pub(super) fn locked(refusal: &Answer) -> Box<Answer> {
    let mut page = page();
    *page.status_mut() = StatusCode::UNAUTHORIZED;
    if let Some(challenge) = refusal.headers().get(header::WWW_AUTHENTICATE) {
        page.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
    }
    Box::new(page)
}

fn policy() -> HeaderValue {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::from_str(&policy).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_place_for_each_part_and_parts_do_not_end_early() {
        assert_eq!(PAGE.matches(STYLE_PLACE).count(), 1);
        assert_eq!(PAGE.matches(SCRIPT_PLACE).count(), 1);
        assert!(!STYLE.contains("</") && !STYLE.contains(SCRIPT_PLACE));
        assert!(!SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
    }

    #[test]
    fn texts_are_never_put_in_as_html_and_nothing_comes_from_elsewhere() {
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!SCRIPT.contains(forbidden), "{forbidden}");
        }
        let namespace = "http://www.w3.org/2000/svg";
        for part in [PAGE, STYLE, SCRIPT] {
            let part = part.replace(namespace, "");
            assert!(
                !part.contains("http://")
                    && !part.contains("https://")
                    && !part.contains("@import")
            );
        }
        assert!(!PAGE.contains("style=") && !PAGE.contains(" on"), "the policy forbids these");
    }
}
