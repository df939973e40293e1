//! The filters that come with the library. Each is written as a user's would be.

mod basic_auth;
mod body_limit;
mod compress;
mod concurrency_limit;
mod cors;
mod error_pages;
mod headers;
mod ip_filter;
mod key;
mod rate_limit;
mod redirect_https;
mod rewrite;
mod vary;

use super::Registry;

/// Makes them known.
pub(super) fn add_to(registry: &mut Registry) {
    registry.add::<basic_auth::BasicAuth>();
    registry.add::<body_limit::BodyLimit>();
    registry.add::<compress::Compress>();
    registry.add::<concurrency_limit::ConcurrencyLimit>();
    registry.add::<cors::Cors>();
    registry.add::<error_pages::ErrorPages>();
    registry.add::<headers::RequestHeaders>();
    registry.add::<headers::ResponseHeaders>();
    registry.add::<ip_filter::IpFilter>();
    registry.add::<rate_limit::RateLimit>();
    registry.add::<redirect_https::RedirectHttps>();
    registry.add::<rewrite::Rewrite>();
}
