//! Clients that stay with a backend by a cookie.

use crate::support::{Config, Lb, Origin, Reply, Response, eventually, get, request, tally};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

const SECRET: &str = "secret: \"sixteen bytes or more\"";

fn named(names: &[&str]) -> Vec<Origin> {
    names.iter().copied().map(Origin::named).collect()
}

fn entries(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(Origin::entry).collect()
}

fn sticky(backends: &[String], keys: &str, more: &str) -> Lb {
    Config::pool(backends, &format!("sticky: {{ cookie: LB, {keys} }}\n{more}")).start()
}

/// The `name=value` of the cookie that a response sets.
fn cookie(response: &Response) -> Option<String> {
    let field = response.headers.get("set-cookie")?;
    Some(field.split(';').next().unwrap().to_owned())
}

#[track_caller]
fn new_cookie(response: &Response) -> String {
    cookie(response).unwrap_or_else(|| panic!("a cookie in {:?}", response.headers))
}

/// A request with that cookie, on a connection of its own.
#[track_caller]
fn ask(lb: &Lb, cookie: &str) -> Response {
    ask_for(lb, "/", cookie)
}

#[track_caller]
fn ask_for(lb: &Lb, path: &str, cookie: &str) -> Response {
    lb.client().ask(request("GET", path, &[&format!("Cookie: x=1; {cookie}; y=2")], b""))
}

/// A cookie for the backend of that name.
#[track_caller]
fn cookie_for(lb: &Lb, name: &str) -> String {
    let mut found = None;
    eventually(&format!("a cookie for {name}"), || {
        let response = lb.get("/");
        found = (response.backend() == name).then(|| new_cookie(&response));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn the_first_answer_sets_a_cookie_that_reveals_nothing() {
    let origins = named(&["app-one", "app-two"]);
    let lb = sticky(&entries(&origins), "ttl: 10m, path: /shop, same_site: strict", "");
    let response = lb.get("/");
    let field = response.headers.get("set-cookie").expect("a cookie").to_owned();
    let mut parts = field.split("; ");
    let value = parts.next().unwrap().strip_prefix("LB=").expect("its name");
    let mut attributes: Vec<&str> = parts.collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["HttpOnly", "Max-Age=600", "Path=/shop", "SameSite=Strict"]);
    let raw = URL_SAFE_NO_PAD.decode(value).unwrap_or_else(|_| value.into());
    let said = format!("{value} {}", String::from_utf8_lossy(&raw));
    for origin in &origins {
        let port = origin.port();
        assert!(!said.contains(&port.to_string()) && !said.contains(origin.name()), "{said:?}");
    }
    assert!(!said.contains("127.0.0"), "{said:?}");
}

#[test]
fn the_cookie_says_secure_when_told() {
    let origins = named(&["a"]);
    for (keys, secure) in [("secure: true", true), ("secure: false", false), ("ttl: 5s", false)] {
        let lb = sticky(&entries(&origins), keys, "");
        let response = lb.get("/");
        let field = response.headers.get("set-cookie").unwrap();
        assert_eq!(field.contains("; Secure"), secure, "{keys}: {field}");
    }
}

#[test]
fn the_cookie_says_to_which_sites_it_goes() {
    let origins = named(&["a"]);
    for (keys, said) in [
        ("same_site: none, secure: true", "; SameSite=None"),
        ("same_site: lax", "; SameSite=Lax"),
        ("ttl: 5s", "; SameSite=Lax"),
    ] {
        let lb = sticky(&entries(&origins), keys, "");
        let response = lb.get("/");
        let field = response.headers.get("set-cookie").unwrap();
        assert!(field.contains(said), "{keys}: {field}");
    }
}

#[test]
fn without_the_key_there_is_no_cookie() {
    let lb = Config::pool(&entries(&named(&["a"])), "").start();
    assert_eq!(cookie(&lb.get("/")), None);
}

#[test]
fn a_client_stays_for_fifty_requests_whatever_the_policy() {
    let origins = named(&["a", "b", "c", "d"]);
    for balance in ["round_robin", "random", "least_connections", "p2c", "peak_ewma", "maglev"] {
        let lb = sticky(&entries(&origins), "ttl: 1h", &format!("balance: {balance}"));
        let first = lb.get("/");
        let kept = new_cookie(&first);
        for _ in 0..50 {
            let response = ask(&lb, &kept);
            assert_eq!(response.backend(), first.backend(), "{balance}");
            assert_eq!(cookie(&response), None, "{balance}: a fresh cookie is not set again");
        }
    }
}

#[test]
fn clients_without_a_cookie_are_spread() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = sticky(&entries(&origins), "ttl: 1h", "");
    let names: Vec<_> = (0..40).map(|_| lb.get("/").backend()).collect();
    assert!(tally(&names).values().all(|count| *count == 10), "{names:?}");
}

#[test]
fn all_backends_can_be_stayed_with() {
    let origins = named(&["a", "b", "c"]);
    let lb = sticky(&entries(&origins), "ttl: 1h", "");
    for name in ["a", "b", "c"] {
        let kept = cookie_for(&lb, name);
        for _ in 0..5 {
            assert_eq!(ask(&lb, &kept).backend(), name);
        }
    }
}

/// Asserts that a cookie is as good as none: requests with it are spread, and get a good one.
#[track_caller]
fn assert_ignored(lb: &Lb, bad: &str, what: &str) {
    let responses: Vec<_> = (0..8).map(|_| ask(lb, bad)).collect();
    let names: Vec<_> = responses.iter().map(Response::backend).collect();
    assert!(responses.iter().all(|response| response.status == 200), "{what}");
    assert!(tally(&names).len() > 1, "{what}: {names:?}");
    for response in &responses {
        let good = new_cookie(response);
        assert_eq!(ask(lb, &good).backend(), response.backend(), "{what}");
    }
}

#[test]
fn forged_and_broken_cookies_are_ignored_and_replaced() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = sticky(&entries(&origins), SECRET, "balance: random");
    let good = new_cookie(&lb.get("/"));
    let flipped = |at: usize| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let value = good.strip_prefix("LB=").unwrap();
    let cases = [
        ("backend changed", flipped(4)),
        ("expiry changed", flipped(18)),
        ("signature changed", flipped(good.len() - 4)),
        ("truncated", good[..good.len() - 3].to_owned()),
        ("cut in half", good[..good.len() / 2].to_owned()),
        ("prolonged", format!("{good}AAAA")),
        ("empty", "LB=".to_owned()),
        ("garbage", "LB=%%%%".to_owned()),
        ("long", format!("LB={}", "A".repeat(4000))),
        ("an address", format!("LB={}", origins[0].address())),
        ("a name", "LB=a".to_owned()),
        ("another name", format!("lb={value}")),
    ];
    for (what, bad) in cases {
        assert_ignored(&lb, &bad, what);
    }
}

#[test]
fn a_cookie_of_another_pool_or_secret_is_ignored() {
    let origins = named(&["a", "b", "c", "d"]);
    let backends = entries(&origins).join(", ");
    let pools = [
        ("one", "the first secret of all"),
        ("two", "the first secret of all"),
        ("three", "the other secret of all"),
    ]
    .map(|(pool, secret)| {
        let sticky = format!("sticky: {{ cookie: LB, secret: \"{secret}\" }}");
        format!("  {pool}: {{ backends: [{backends}], {sticky} }}\n")
    });
    let routes = ["one", "two", "three"]
        .map(|pool| format!("  - {{ match: {{ path_prefix: /{pool} }}, pool: {pool} }}\n"));
    let lb = Config::new(format!("pools:\n{}routes:\n{}", pools.concat(), routes.concat())).start();
    let first = lb.get("/one");
    let kept = new_cookie(&first);
    assert_eq!(ask_for(&lb, "/one", &kept).backend(), first.backend());
    for path in ["/two", "/three"] {
        let names: Vec<_> = (0..8)
            .map(|_| {
                let response = ask_for(&lb, path, &kept);
                new_cookie(&response);
                response.backend()
            })
            .collect();
        assert!(tally(&names).len() > 1, "{path}: {names:?}");
    }
}

#[test]
fn an_expired_cookie_is_ignored_and_replaced() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = sticky(&entries(&origins), "ttl: 1s", "balance: random");
    let first = lb.get("/");
    let kept = new_cookie(&first);
    eventually("the cookie expires", || ask(&lb, &kept).backend() != first.backend());
    assert_ignored(&lb, &kept, "expired");
}

#[test]
fn a_cookie_in_use_is_renewed() {
    let origins = named(&["a", "b", "c", "d"]);
    let lb = sticky(&entries(&origins), "ttl: 4s", "");
    let first = lb.get("/");
    let mut kept = new_cookie(&first);
    let mut renewed = 0;
    // Three renewals at least a second apart each: it goes on beyond any one cookie's life.
    eventually("the cookie is renewed again and again", || {
        let response = ask(&lb, &kept);
        assert_eq!(response.backend(), first.backend());
        if let Some(next) = cookie(&response) {
            assert_ne!(next, kept);
            kept = next;
            renewed += 1;
        }
        renewed == 3
    });
}

#[test]
fn a_client_whose_backend_is_killed_gets_another_and_a_new_cookie() {
    let origins = named(&["a", "b", "c"]);
    let lb = sticky(&entries(&origins), "ttl: 1h", "health_check: off\nejection: off");
    let kept = cookie_for(&lb, "b");
    assert_eq!(ask(&lb, &kept).backend(), "b");
    origins[1].stop();
    let moved = ask(&lb, &kept);
    assert_eq!(moved.status, 200);
    assert_ne!(moved.backend(), "b");
    let next = new_cookie(&moved);
    for _ in 0..10 {
        let response = ask(&lb, &next);
        assert_eq!((response.backend(), cookie(&response)), (moved.backend(), None));
    }
}

#[test]
fn a_client_whose_backend_fails_its_checks_gets_another_and_a_new_cookie() {
    let origins = named(&["a", "b", "c"]);
    let check = "health_check: { interval: 150ms, timeout: 150ms, rise: 1, fall: 1 }";
    let lb = sticky(&entries(&origins), "ttl: 1h", check);
    let kept = cookie_for(&lb, "b");
    origins[1].stop();
    lb.wait_for_line("backend b ");
    let moved = ask(&lb, &kept);
    assert_eq!(moved.status, 200);
    assert_ne!(moved.backend(), "b");
    assert_eq!(ask(&lb, &new_cookie(&moved)).backend(), moved.backend());
}

#[test]
fn a_client_whose_backend_is_ejected_gets_another_and_a_new_cookie() {
    let origins = named(&["a", "b", "c"]);
    let more = "ejection: { consecutive_failures: 3 }\nhealth_check: off";
    let lb = sticky(&entries(&origins), "ttl: 1h", more);
    let kept = cookie_for(&lb, "b");
    origins[1].script(|_| Reply::status(500));
    for _ in 0..3 {
        let response = ask(&lb, &kept);
        assert_eq!((response.status, response.backend().as_str()), (500, "b"));
    }
    let moved = ask(&lb, &kept);
    assert_eq!(moved.status, 200);
    assert_ne!(moved.backend(), "b");
    assert_eq!(ask(&lb, &new_cookie(&moved)).backend(), moved.backend());
}

/// Two balancers with the same secret; the second's file says something else of backend a.
fn two_files(keys: &str) -> (Vec<Origin>, Lb, Lb) {
    let origins = named(&["a", "b", "c"]);
    let before = sticky(&entries(&origins), SECRET, "");
    let mut backends = entries(&origins);
    backends[0] = origins[0].entry_with(keys);
    let after = sticky(&backends, SECRET, "");
    (origins, before, after)
}

#[test]
fn a_backend_that_takes_no_new_clients_keeps_those_it_has() {
    for keys in ["state: draining", "weight: 0"] {
        let (_origins, before, after) = two_files(keys);
        let kept = cookie_for(&before, "a");
        for _ in 0..10 {
            let response = ask(&after, &kept);
            assert_eq!((response.backend().as_str(), cookie(&response)), ("a", None), "{keys}");
            assert_ne!(after.get("/").backend(), "a", "{keys}");
        }
    }
}

#[test]
fn a_draining_backend_that_is_down_loses_its_clients() {
    let (origins, before, after) = two_files("state: draining");
    let kept = cookie_for(&before, "a");
    origins[0].stop();
    let moved = ask(&after, &kept);
    assert_eq!(moved.status, 200);
    assert_eq!(ask(&after, &new_cookie(&moved)).backend(), moved.backend());
}

#[test]
fn a_disabled_backend_has_no_clients() {
    let (_origins, before, after) = two_files("state: disabled");
    let kept = cookie_for(&before, "a");
    for _ in 0..10 {
        let response = ask(&after, &kept);
        assert_ne!(response.backend(), "a");
        assert_eq!(ask(&after, &new_cookie(&response)).backend(), response.backend());
    }
}

#[test]
fn balancers_agree_when_they_share_a_secret_and_only_then() {
    let origins = named(&["a", "b", "c", "d"]);
    let backends = entries(&origins);
    let [one, two] = [(); 2].map(|()| sticky(&backends, SECRET, ""));
    for name in ["a", "b", "c", "d"] {
        let kept = cookie_for(&one, name);
        for _ in 0..5 {
            assert_eq!(ask(&two, &kept).backend(), name);
        }
    }
    let [one, two] = [(); 2].map(|()| sticky(&backends, "ttl: 1h", "balance: random"));
    let kept = new_cookie(&one.get("/"));
    assert_ignored(&two, &kept, "another start's secret");
}

#[test]
fn answers_of_our_own_set_no_cookie() {
    let origin = Origin::named("a");
    origin.stop();
    let lb = sticky(&[origin.entry()], "ttl: 1h", "health_check: off");
    let response = get(&lb.web(), "/");
    assert_eq!((response.status, cookie(&response)), (502, None));
}

#[test]
fn a_cookie_of_the_backends_own_is_passed_on_beside_ours() {
    let origin = Origin::scripted("a", |_| Reply::text("a").with("Set-Cookie", "own=1"));
    let lb = sticky(&[origin.entry()], "ttl: 1h", "");
    let fields = lb.get("/").headers.all("set-cookie").join(" | ");
    assert!(fields.contains("own=1") && fields.contains("LB="), "{fields}");
}
