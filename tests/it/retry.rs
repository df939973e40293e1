//! What happens when a backend fails a request: another backend, or the right answer.

use crate::support::{
    Client, Config, FullBacklog, Lb, Load, Origin, Program, Reply, Reserved, Response, eventually,
    get, request,
};
use std::time::{Duration, Instant};

/// Health checks that never get in the way: one that could notice would make these tests pass
/// for the wrong reason.
const UNCHECKED: &str = "health_check: off";

fn unchecked(backends: &[String], keys: &str) -> Lb {
    Config::pool(backends, &format!("{UNCHECKED}\n{keys}")).access_log().start()
}

/// The status and the reason code of an answer of the balancer's own.
fn own(response: &Response) -> (u16, String) {
    (response.status, response.text())
}

#[track_caller]
fn assert_own(response: &Response, status: u16, reason: &str) {
    let (got, body) = own(response);
    assert_eq!(got, status, "{body}");
    assert!(body.contains(reason), "{reason} in {body:?}");
}

/// The reason of the last of that many access-log lines.
#[track_caller]
fn last_reason(lb: &Lb, lines: usize) -> String {
    lb.wait_for_entries(lines)[lines - 1]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn no_request_fails_when_a_backend_dies_under_keep_alive_connections() {
    let origins = ["app-1", "app-2", "app-3"].map(Origin::named);
    let backends: Vec<String> = origins.iter().map(Origin::entry).collect();
    let lb = Config::pool(&backends, "health_check: { interval: 60s }").start();
    let load = Load::start(&lb.web(), 64, "/");
    load.wait_for_more(1000);
    origins[1].stop();
    load.wait_for_more(2000);
    let (_, repeated, failures) = load.stop();
    assert_eq!((repeated, failures), (0, Vec::new()));
    assert_eq!(lb.lines_with("is DOWN"), 0, "a health check has noticed");
}

#[test]
fn no_request_fails_when_a_backend_process_is_killed() {
    let ports = [Reserved::new(), Reserved::new(), Reserved::new()];
    let mut backends: Vec<Program> = ports
        .iter()
        .zip(["app-1", "app-2", "app-3"])
        .map(|(port, name)| {
            Program::start(["backend", "--port", &port.port().to_string(), "--name", name])
        })
        .collect();
    for port in &ports {
        eventually("the backend listens", || port.address().connect().is_ok());
    }
    let addresses: Vec<String> = ports.iter().map(|port| port.address().to_string()).collect();
    let lb = Config::pool(&addresses, "health_check: { interval: 60s }").start();
    let load = Load::start(&lb.web(), 64, "/");
    load.wait_for_more(1000);
    // Dropping a program kills it with SIGKILL.
    drop(backends.remove(1));
    load.wait_for_more(2000);
    let (_, repeated, failures) = load.stop();
    assert_eq!((repeated, failures), (0, Vec::new()));
    assert_eq!(lb.lines_with("is DOWN"), 0, "a health check has noticed");
}

#[test]
fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let alive = Origin::named("alive");
    let dead = [Reserved::new(), Reserved::new()];
    let backends = [dead[0].address().to_string(), dead[1].address().to_string(), alive.entry()];
    let lb = unchecked(&backends, "");
    let mut client = lb.client();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        for _ in 0..3 {
            let response = client.ask(request(method, "/", &[], b"the body"));
            assert_eq!((response.status, response.text().as_str()), (200, "alive"), "{method}");
        }
    }
    assert_eq!(alive.count(), 15);
    assert!(alive.requests().iter().all(|request| request.body == b"the body"));
    let tries: Vec<_> =
        lb.wait_for_entries(15).iter().map(|entry| entry["tries"].as_u64().unwrap()).collect();
    assert_eq!(tries.iter().max(), Some(&3), "{tries:?}");
}

#[test]
fn a_get_is_repeated_elsewhere_when_the_backend_breaks_off_before_answering() {
    for breaking in [Reply::close(), Reply::reset()] {
        let alive = Origin::named("alive");
        let dying = Origin::scripted("dying", move |_| breaking.clone());
        let lb = unchecked(&[dying.entry(), alive.entry()], "");
        let mut client = lb.client();
        for _ in 0..6 {
            let response = client.get("/");
            assert_eq!((response.status, response.text().as_str()), (200, "alive"));
        }
        assert_eq!(alive.count(), 6);
        assert!(dying.count() >= 3, "{} tries on the one that dies", dying.count());
    }
}

#[test]
fn an_idempotent_request_with_a_body_is_repeated_whole() {
    let alive = Origin::named("alive");
    let dying = Origin::scripted("dying", |_| Reply::close());
    let lb = unchecked(&[dying.entry(), alive.entry()], "");
    let mut client = lb.client();
    for _ in 0..4 {
        assert_eq!(client.ask(request("PUT", "/", &[], &[b'x'; 10_000])).status, 200);
    }
    assert!(alive.requests().iter().all(|request| request.body == [b'x'; 10_000]));
}

#[test]
fn a_body_too_large_to_keep_is_never_repeated_in_part() {
    let alive = Origin::named("alive");
    let dying = Origin::scripted("dying", |_| Reply::close());
    let lb = unchecked(&[dying.entry(), alive.entry()], "");
    let body = vec![b'x'; 1_000_000];
    let mut answered = 0;
    for _ in 0..4 {
        let mut client = lb.client();
        if client.try_send(&request("PUT", "/", &[], &body)).is_ok() {
            answered += usize::from(client.try_response().is_ok_and(|r| r.status == 200));
        }
    }
    assert!(answered >= 2, "what went to the good backend is answered");
    for request in alive.requests() {
        assert_eq!((request.body_length, request.complete), (1_000_000, true));
    }
}

#[test]
fn a_post_is_not_repeated_once_it_was_sent() {
    for breaking in [Reply::close(), Reply::reset()] {
        let dying = ["app-1", "app-2"].map(|name| {
            let breaking = breaking.clone();
            Origin::scripted(name, move |_| breaking.clone())
        });
        let lb = unchecked(&[dying[0].entry(), dying[1].entry()], "");
        let response = lb.client().ask(request("POST", "/", &[], b"pay once"));
        assert_own(&response, 502, "upstream_reset");
        assert_eq!(dying[0].count() + dying[1].count(), 1);
        assert_eq!(last_reason(&lb, 1), "upstream_reset");
    }
}

#[test]
fn a_stale_pooled_connection_costs_a_get_nothing() {
    // With one backend and no attempts left, only a replay on the same backend can help.
    let origin = Origin::named("app-1");
    let lb = unchecked(&[origin.entry()], "retry: { attempts: 0 }");
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    origin.stop();
    origin.start();
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_stale_pooled_connection_says_nothing_of_a_backend_whatever_the_method() {
    let lossy = |fails: &'static str| {
        Origin::scripted("a", move |request| {
            if request.path() == fails { Reply::close() } else { Reply::text("a") }
        })
    };
    let post = |lb: &Lb, path: &str| lb.client().ask(request("POST", path, &[], b"x"));
    let keys = "ejection: { consecutive_failures: 1 }\nretry: { attempts: 0 }";
    // On a connection that was used before, and one that was not.
    for (first, used_after) in [("/", 2), ("/fails", 0)] {
        let (a, b) = (lossy("/fails"), Origin::named("b"));
        let lb = unchecked(&[a.entry(), b.entry()], keys);
        for _ in 0..2 {
            post(&lb, first);
        }
        // A POST is not repeated, whoever ended the connection.
        let failed = (0..2).filter(|_| post(&lb, "/fails").status == 502).count();
        let (before, was_out) = (a.count(), failed == 0);
        for _ in 0..4 {
            assert_eq!(post(&lb, "/").status, 200);
        }
        assert_eq!((was_out, a.count() - before), (used_after == 0, used_after), "{first}");
    }
}

#[test]
fn without_attempts_nothing_is_retried() {
    let dead = Reserved::new();
    let alive = Origin::named("alive");
    let lb = unchecked(&[dead.address().to_string(), alive.entry()], "retry: { attempts: 0 }");
    let statuses: Vec<u16> = (0..4).map(|_| lb.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
}

#[test]
fn attempts_is_the_number_of_tries_after_the_first() {
    let dying: Vec<Origin> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| Origin::scripted(name, |_| Reply::close()))
        .collect();
    let backends: Vec<String> = dying.iter().map(Origin::entry).collect();
    for (attempts, tries) in [(0, 1), (1, 2), (2, 3), (9, 4)] {
        let before: usize = dying.iter().map(Origin::count).sum();
        let lb = unchecked(&backends, &format!("retry: {{ attempts: {attempts} }}"));
        assert_own(&lb.get("/"), 502, "upstream_reset");
        let after: usize = dying.iter().map(Origin::count).sum();
        assert_eq!(after - before, tries, "attempts: {attempts}");
        assert_eq!(lb.wait_for_entries(1)[0]["tries"], tries, "attempts: {attempts}");
    }
}

#[test]
fn connections_refused_by_all_are_a_502_connect_failed() {
    let dead = [Reserved::new(), Reserved::new()];
    let backends: Vec<String> = dead.iter().map(|port| port.address().to_string()).collect();
    let lb = unchecked(&backends, "");
    assert_own(&lb.get("/"), 502, "connect_failed");
    assert_eq!(last_reason(&lb, 1), "connect_failed");
    // The next request on the same connection is none the worse.
    let mut client = lb.client();
    assert_own(&client.get("/"), 502, "connect_failed");
    assert_own(&client.get("/"), 502, "connect_failed");
}

#[test]
fn a_backend_that_never_answers_is_a_504_after_the_read_timeout() {
    let silent = Origin::scripted("silent", |_| Reply::Hang);
    let keys = "timeouts: { read: 300ms }\nretry: { attempts: 0 }";
    let lb = unchecked(&[silent.entry()], keys);
    for method in ["GET", "POST"] {
        let asked = Instant::now();
        let response = lb.client().ask(request(method, "/", &[], b"x"));
        let took = asked.elapsed();
        assert_own(&response, 504, "upstream_timeout");
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(2), "{took:?}");
    }
    assert_eq!(last_reason(&lb, 2), "upstream_timeout");
}

#[test]
fn a_connection_that_is_never_made_is_a_504_after_the_connect_timeout() {
    let full = FullBacklog::new();
    let keys = "timeouts: { connect: 300ms }\nretry: { attempts: 0 }";
    let lb = unchecked(&[full.address().to_string()], keys);
    let asked = Instant::now();
    assert_own(&lb.get("/"), 504, "upstream_timeout");
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_connection_that_is_never_made_is_tried_elsewhere() {
    let full = FullBacklog::new();
    let alive = Origin::named("alive");
    let lb =
        unchecked(&[full.address().to_string(), alive.entry()], "timeouts: { connect: 200ms }");
    let mut client = lb.client();
    for _ in 0..2 {
        assert_eq!(client.ask(request("POST", "/", &[], b"x")).status, 200);
    }
}

#[test]
fn a_backend_that_does_not_take_the_request_is_a_504_after_the_write_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let keys = "timeouts: { write: 300ms, read: 60s }\nretry: { attempts: 0 }";
    let lb = unchecked(&[address], keys);
    let mut client = lb.client();
    client.send(request("POST", "/", &[&format!("Content-Length: {}", 1 << 30)], b""));
    // It accepts and never reads, so at some point nothing more can be sent to it.
    let (_held, _) = listener.accept().unwrap();
    client.set_write_patience(Duration::from_secs(2));
    let block = vec![0; 1 << 20];
    while client.try_send(&block).is_ok() {}
    assert_eq!(last_reason(&lb, 1), "upstream_timeout");
    assert_eq!(lb.entries()[0]["status"], 504);
}

#[test]
fn a_slow_backend_within_its_timeout_is_waited_for() {
    let slow = Origin::slow("slow", Duration::from_millis(300));
    let lb = unchecked(&[slow.entry()], "timeouts: { read: 3s }");
    assert_eq!(lb.get("/").text(), "slow");
}

#[test]
fn the_route_timeout_covers_all_tries() {
    let silent = ["a", "b"].map(|name| Origin::scripted(name, |_| Reply::Hang));
    let lb = Config::pool(&[silent[0].entry(), silent[1].entry()], UNCHECKED)
        .and("routes:\n  - { timeout: 300ms, pool: app }")
        .access_log()
        .start();
    let asked = Instant::now();
    assert_own(&lb.get("/"), 504, "upstream_timeout");
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(last_reason(&lb, 1), "upstream_timeout");
}

#[test]
fn the_route_timeout_ends_with_the_response_headers() {
    let origin = Origin::scripted("a", |_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    });
    let lb = Config::pool(&[origin.entry()], &format!("{UNCHECKED}\ntimeouts: {{ read: 1s }}"))
        .and("routes:\n  - { timeout: 200ms, pool: app }")
        .start();
    let mut client = lb.client();
    let asked = Instant::now();
    client.send(request("GET", "/", &[], b""));
    assert_eq!(client.head().status, 200);
    client.rest();
    assert!(asked.elapsed() >= Duration::from_millis(900), "cut by the route's timeout");
}

/// What a client gets from a backend that sends these bytes and breaks off.
fn broken_off(bytes: &str, reset: bool) -> (Response, String) {
    let bytes = bytes.as_bytes().to_vec();
    let origin = Origin::scripted("app-1", move |_| {
        if reset { Reply::RawThenReset(bytes.clone()) } else { Reply::RawThenClose(bytes.clone()) }
    });
    let lb = unchecked(&[origin.entry()], "");
    let response = lb.get("/");
    assert_eq!(origin.count(), 1, "an answer that has begun is not asked for again");
    (response, last_reason(&lb, 1))
}

#[test]
fn a_body_of_known_length_that_breaks_off_reaches_the_client_cut() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    let (response, reason) = broken_off(&format!("{head}half"), false);
    assert_eq!((response.status, response.complete), (200, false));
    assert_eq!(response.headers.get("content-length"), Some("100"));
    assert_eq!(reason, "upstream_truncated");
}

#[test]
fn a_chunked_body_that_breaks_off_reaches_the_client_without_its_last_chunk() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in ["4\r\nhalf\r\n", "4\r\nha", "4"] {
        let (response, reason) = broken_off(&format!("{head}{body}"), false);
        assert_eq!((response.status, response.complete), (200, false), "{body:?}");
        assert_eq!(reason, "upstream_truncated", "{body:?}");
    }
}

#[test]
fn a_read_timeout_in_the_body_cuts_the_answer() {
    let origin = Origin::scripted("a", |_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    });
    let lb = unchecked(&[origin.entry()], "timeouts: { read: 300ms }");
    let response = lb.get("/");
    assert_eq!((response.status, response.complete), (200, false));
    assert_eq!(last_reason(&lb, 1), "upstream_truncated");
    // What asks for something that is not passed on is no exception.
    let fields = ["Connection: Upgrade", "Upgrade: foo/2"];
    let response = lb.client().ask(request("GET", "/", &fields, b""));
    assert_eq!((response.status, response.complete), (200, false));
    assert_eq!(origin.last_request().headers.get("upgrade"), None);
}

#[test]
fn garbage_from_a_backend_is_a_502_and_its_connection_is_not_used_again() {
    let cases = [
        "FTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: , chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for garbage in cases {
        let origin = Origin::scripted("app-1", move |request| match request.path() {
            "/garbage" => Reply::raw(garbage),
            _ => Reply::text("fine"),
        });
        let lb = unchecked(&[origin.entry()], "retry: { attempts: 0 }");
        let mut client = lb.client();
        assert_eq!(client.ask(request("POST", "/garbage", &[], b"x")).status, 502, "{garbage:?}");
        assert_eq!(get(&lb.web(), "/").text(), "fine", "{garbage:?}");
        assert_eq!(origin.connections(), 2, "{garbage:?}");
    }
}

#[test]
fn bytes_after_an_answer_are_never_delivered() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/more" => Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        ),
        _ => Reply::text("fine"),
    });
    let lb = unchecked(&[origin.entry()], "");
    let mut client = lb.client();
    for path in ["/more", "/", "/more", "/"] {
        assert_eq!(client.get(path).text(), "fine", "{path}");
    }
}

#[test]
fn own_answers_are_text_with_a_request_id() {
    let dead = Reserved::new();
    let lb = unchecked(&[dead.address().to_string()], "");
    let response = lb.get("/");
    assert_own(&response, 502, "connect_failed");
    let content_type = response.headers.get("content-type").unwrap();
    assert!(content_type.starts_with("text/plain"), "{content_type}");
    assert!(!response.headers.get("x-request-id").unwrap().is_empty());
    assert!(response.text().len() < 300, "{}", response.text());
}

#[test]
fn own_answers_are_json_for_those_who_prefer_it() {
    let dead = Reserved::new();
    let lb = unchecked(&[dead.address().to_string()], "");
    let mut client = lb.client();
    let response = client.ask(request("GET", "/", &["Accept: application/json"], b""));
    let content_type = response.headers.get("content-type").unwrap();
    assert!(content_type.starts_with("application/json"), "{content_type}");
    let body = response.json();
    assert_eq!(body["status"], 502);
    assert_eq!(body["error"], "connect_failed");
    assert_eq!(body["request_id"].as_str(), response.headers.get("x-request-id"));

    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
    let response = client.ask(request("GET", "/", &[browser], b""));
    assert!(response.headers.get("content-type").unwrap().starts_with("text/plain"));
}

#[test]
fn own_answers_to_head_have_no_body() {
    let dead = Reserved::new();
    let lb = unchecked(&[dead.address().to_string()], "");
    let mut client = lb.client();
    client.send(request("HEAD", "/", &[], b""));
    assert_eq!(client.response_to_head().status, 502);
    // A body would be read as the next answer.
    assert_eq!(client.get("/").status, 502);
}

#[test]
fn a_failed_post_with_an_unread_body_does_not_upset_the_connection() {
    let dead = Reserved::new();
    let lb = unchecked(&[dead.address().to_string()], "");
    let mut client = lb.client();
    let inner = request("GET", "/smuggled", &[], b"");
    assert_own(&client.ask(request("POST", "/", &[], &inner)), 502, "connect_failed");
    // Either the connection goes on behind the body, or it is closed: the body is no request.
    if client.try_send(&request("GET", "/second", &[], b"")).is_ok()
        && let Ok(response) = client.try_response()
    {
        assert_own(&response, 502, "connect_failed");
    }
    drop(client);
    Client::connect(&lb.web()).get("/third");
    let entries = lb.wait_for_entries(2);
    assert!(entries.iter().all(|entry| entry["path"] != "/smuggled"), "{entries:?}");
}
