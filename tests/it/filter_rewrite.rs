//! `rewrite`: the path that a backend sees.

use crate::support::{Config, Origin, filter_error, filtered, request};

/// Which path the backend sees for each that is asked for; `None` where the answer is a 400.
#[track_caller]
fn assert_rewritten(filter: &str, cases: &[(&str, Option<&str>)]) {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &[filter]).start();
    let mut wrong = Vec::new();
    for (asked, expected) in cases {
        let (before, status) = (origin.count(), lb.get(asked).status);
        let seen = (origin.count() > before).then(|| origin.last_request().target);
        let expected_status = if expected.is_some() { 200 } else { 400 };
        if seen.as_deref() != *expected || status != expected_status {
            wrong.push(format!("{asked}: {status} {seen:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{filter}: {wrong:#?}");
}

#[test]
fn a_prefix_is_stripped_on_whole_segments() {
    assert_rewritten(
        "rewrite: { strip_prefix: /api }",
        &[
            ("/api/users", Some("/users")),
            ("/api/users?a=/api&b", Some("/users?a=/api&b")),
            ("/api", Some("/")),
            ("/api?q", Some("/?q")),
            ("/api/", Some("/")),
            ("/api//x", Some("//x")),
            ("/apis/x", Some("/apis/x")),
            ("/x/api", Some("/x/api")),
            ("/API/x", Some("/API/x")),
            // The normal form is what is matched, and what is sent on.
            ("/x/../api/y", Some("/y")),
            ("/api/../x", Some("/x")),
            ("/%2e/api/a/%2e%2e/b", Some("/b")),
            ("/api/%2e%2e%2fx", Some("/..%2Fx")),
            ("/%61pi/users", Some("/users")),
            ("//api///x", Some("///x")),
        ],
    );
    assert_rewritten(
        "rewrite: { strip_prefix: /api/ }",
        &[("/api/x", Some("/x")), ("/api/", Some("/")), ("/api", Some("/api"))],
    );
}

#[test]
fn a_prefix_is_replaced_on_whole_segments() {
    assert_rewritten(
        "rewrite: { replace_prefix: { from: /a, to: /b/c } }",
        &[
            ("/a", Some("/b/c")),
            ("/a/", Some("/b/c/")),
            ("/a/x?y", Some("/b/c/x?y")),
            ("/ab", Some("/ab")),
        ],
    );
    assert_rewritten(
        "rewrite: { replace_prefix: { from: /, to: /b } }",
        &[("/", Some("/b")), ("/x", Some("/b/x"))],
    );
}

#[test]
fn what_an_expression_matches_is_replaced() {
    assert_rewritten(
        r#"rewrite: { regex: "^/(?<kind>[a-z]+)/([0-9]+)$", to: "/v2/${kind}s/$2/${2}0/$$1" }"#,
        &[
            ("/user/7?x=1", Some("/v2/users/7/70/$1?x=1")),
            ("/user/x", Some("/user/x")),
            ("/a/../user/7", Some("/v2/users/7/70/$1")),
        ],
    );
    assert_rewritten(
        r#"rewrite: { regex: "/+", to: / }"#,
        &[("//a///b", Some("/a/b")), ("/?a//b", Some("/?a//b"))],
    );
    assert_rewritten(
        r#"rewrite: { regex: "^/a/(.*)$", to: "/b/$1" }"#,
        &[("//a//x", Some("/b/x")), ("/a/x", Some("/b/x")), ("//c//x", Some("//c//x"))],
    );
    assert_rewritten(
        r#"rewrite: { regex: "^/old/(.*)", to: "$1" }"#,
        &[("/old/x", Some("/x")), ("/old/", Some("/"))],
    );
}

#[test]
fn no_path_leaves_the_root() {
    assert_rewritten(
        r#"rewrite: { regex: x, to: "" }"#,
        &[
            ("/x./a", Some("/a")),
            ("/a/.x./b", Some("/b")),
            ("/.x./a", None),
            ("/%2xe%2e/a", None),
            ("/a/%2xe./%2xe./b", None),
            ("/%0x0", None),
        ],
    );
}

#[test]
fn the_server_as_a_whole_is_no_path() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &[r#"rewrite: { regex: "^.*$", to: /x }"#]).start();
    let options = lb.client().ask(request("OPTIONS", "*", &[], b""));
    assert_eq!((options.status, origin.last_request().target.as_str()), (200, "*"));
}

#[test]
fn a_bad_result_is_a_bad_request_and_the_log_has_what_was_asked() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &[r#"rewrite: { regex: "^/x", to: "" }"#]);
    let lb = lb.access_log().start();
    let refused = lb.get("/x/../x..");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("bad_request"), "{}", refused.text());
    lb.wait_for_entries(1);
    assert_eq!(lb.get("/xa?b").status, 200);
    let entries = lb.wait_for_entries(2);
    assert_eq!(
        (&entries[0]["path"], &entries[0]["reason"]),
        (&"/x/../x..".into(), &"bad_request".into())
    );
    assert_eq!((&entries[1]["path"], &entries[1]["reason"]), (&"/xa?b".into(), &"ok".into()));
    assert_eq!(origin.only_request().target, "/a?b");
}

#[test]
fn several_rewrites_follow_each_other() {
    let origin = Origin::named("a");
    let filters = [
        "rewrite: { strip_prefix: /api }",
        "rewrite: { replace_prefix: { from: /v1, to: /v2 } }",
        r#"request_headers: { set: { x-path: "${path}" } }"#,
    ];
    let lb = filtered(&[&origin], "", &filters).start();
    lb.get("/api/v1/x?y");
    let seen = origin.only_request();
    assert_eq!((seen.target.as_str(), seen.headers.get("x-path")), ("/v2/x?y", Some("/v2/x")));
}

#[test]
fn the_route_stays_and_a_redirect_has_the_new_path() {
    let origin = Origin::named("a");
    let text = format!(
        "pools:\n  app: {{ backends: [{}] }}\n\
         routes:\n\
         \x20 - match: {{ path_prefix: /a }}\n\
         \x20   filters: [{{ rewrite: {{ replace_prefix: {{ from: /a, to: /b }} }} }}]\n\
         \x20   pool: app\n\
         \x20 - {{ match: {{ path_prefix: /b }}, respond: {{ status: 200, body: other }} }}\n\
         \x20 - match: {{ path_prefix: /old }}\n\
         \x20   filters: [{{ rewrite: {{ strip_prefix: /old }} }}]\n\
         \x20   redirect: {{ to: \"https://new.example${{path_and_query}}\" }}\n",
        origin.entry()
    );
    let lb = Config::new(text).start();
    assert_eq!(lb.get("/a/x").text(), "a");
    assert_eq!(origin.only_request().target, "/b/x");
    assert_eq!(lb.get("/b/x").text(), "other");
    assert_eq!(lb.get("/old/x?y").headers.get("location"), Some("https://new.example/x?y"));
}

#[test]
fn hashing_goes_by_the_new_target() {
    let origins: Vec<Origin> = ["a", "b", "c"].iter().map(|name| Origin::named(name)).collect();
    let origins: Vec<&Origin> = origins.iter().collect();
    for hash_on in ["path", "uri"] {
        let keys = format!("balance: {{ policy: maglev, hash_on: {hash_on} }}");
        let filter = r#"rewrite: { regex: "^/[0-9]+", to: "" }"#;
        let lb = filtered(&origins, &keys, &[filter]).start();
        let mut client = lb.client();
        let mut backends: Vec<String> =
            (0..20).map(|number| client.get(&format!("/{number}/same")).backend()).collect();
        backends.dedup();
        assert_eq!(backends.len(), 1, "{hash_on}");
        let spread: std::collections::BTreeSet<String> =
            (0..20).map(|number| client.get(&format!("/0/{number}")).backend()).collect();
        assert!(spread.len() > 1, "{hash_on}");
    }
}

#[test]
fn what_is_wrong_with_a_rewrite_is_said() {
    let head = "routes[0].filters[0].rewrite";
    for (settings, expected) in [
        (
            "rewrite: {}",
            "4:11: {}: no change; expected strip_prefix, replace_prefix, or regex with to",
        ),
        (
            "rewrite",
            "4:19: {}: found null; expected a map with strip_prefix, replace_prefix, regex or to",
        ),
        (
            "rewrite: { strip_prefix: /a, regex: b, to: c }",
            "4:11: {}: more than one change; expected only one of strip_prefix, replace_prefix, or regex with to",
        ),
        ("rewrite: { regex: b }", "4:29: {}.regex: \"regex\" without \"to\"; expected both"),
        ("rewrite: { to: b }", "4:26: {}.to: \"to\" without \"regex\"; expected both"),
        (
            "rewrite: { strip: /a }",
            "4:22: {}.strip: unknown key \"strip\"; expected strip_prefix, replace_prefix, regex or to",
        ),
        (
            "rewrite: { strip_prefix: / }",
            "4:36: {}.strip_prefix: found \"/\"; expected a prefix that is more than /",
        ),
        (
            "rewrite: { strip_prefix: api }",
            "4:36: {}.strip_prefix: found \"api\"; expected a path that starts with /, \
             visible ASCII without ? and #; the query stays as it is",
        ),
        (
            "rewrite: { replace_prefix: { from: /a, to: /b?c } }",
            "4:54: {}.replace_prefix.to: found \"/b?c\"; expected \
             visible ASCII without ? and #; the query stays as it is",
        ),
        (
            "rewrite: { replace_prefix: { from: /a/../b, to: /b } }",
            "4:46: {}.replace_prefix.from: found \"/a/../b\"; expected a path without . and .. as segments",
        ),
        (
            "rewrite: { replace_prefix: { from: /a } }",
            "4:22: {}.replace_prefix: missing key \"to\"; expected a text",
        ),
        (
            "rewrite: { regex: '(', to: /b }",
            "4:29: {}.regex: found \"(\"; expected a regular expression",
        ),
        (
            "rewrite: { regex: '(?<id>a)', to: '/$2' }",
            "4:45: {}.to: unknown group \"2\"; expected a group of the expression: 0, 1 or id",
        ),
        (
            "rewrite: { regex: '(?<id>a)', to: '/${ids}' }",
            "4:45: {}.to: unknown group \"ids\"; expected a group of the expression: 0, 1 or id; did you mean \"id\"?",
        ),
        (
            "rewrite: { regex: a, to: '/b?c=$0' }",
            "4:36: {}.to: found \"/b?c=\"; expected visible ASCII without ? and #; the query stays as it is",
        ),
        (
            "rewrite: { regex: a, to: '/${UNSET_VARIABLE}' }",
            "4:36: {}.to: environment variable UNSET_VARIABLE is not set; \
             expected a value for it, or a default as in ${UNSET_VARIABLE:-default}",
        ),
    ] {
        assert_eq!(filter_error(settings), expected.replace("{}", head), "{settings}");
    }
}
