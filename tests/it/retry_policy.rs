//! When a request is tried again: conditions, pauses, the budget, and what is kept for it.

use crate::support::{Config, Lb, Origin, Reply, Response, eventually, request, tally};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Nothing but the retry policy decides who is tried.
fn unchecked(origins: &[Origin], retry: &str) -> Lb {
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    let keys = format!("health_check: off\nejection: off\nretry: {{ {retry} }}");
    Config::pool(&backends, &keys)
        .and("routes:\n  - { match: { path: /own }, respond: { status: 200, body: own } }\n  - pool: app")
        .access_log()
        .start()
}

/// A backend that answers with this status, its name in a field and in the body.
fn answering(name: &'static str, status: u16) -> Origin {
    Origin::scripted(name, move |_| Reply::Answer {
        status,
        headers: vec![("X-Own".to_owned(), name.to_owned())],
        body: format!("{name} is sorry").into_bytes(),
    })
}

fn total(origins: &[Origin]) -> usize {
    origins.iter().map(Origin::count).sum()
}

#[track_caller]
fn assert_own(response: &Response, status: u16, reason: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert!(response.text().contains(reason), "{reason} in {:?}", response.text());
}

#[test]
fn a_status_is_retried_when_it_is_listed_and_the_method_may_be_repeated() {
    for status in [502, 503, 504] {
        let origins = [answering("bad", status), Origin::named("good")];
        let lb = unchecked(&origins, &format!("on: [{status}]"));
        let mut client = lb.client();
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            for _ in 0..2 {
                let response = client.ask(request(method, "/", &[], b"body"));
                assert_eq!((response.status, response.text().as_str()), (200, "good"), "{method}");
                assert_eq!(response.backend(), "good");
                assert!(!response.headers.has("x-own"), "nothing of the answer not passed on");
            }
        }
        let good = origins[1].requests();
        assert!(good.iter().all(|request| request.body == b"body" && request.complete));
        assert!(origins[0].count() >= 4, "{} tries on the bad one", origins[0].count());
        assert_eq!(good.len(), 8);

        for method in ["POST", "PATCH"] {
            let before = total(&origins);
            let statuses: Vec<_> =
                (0..4).map(|_| client.ask(request(method, "/", &[], b"body")).status).collect();
            assert_eq!(statuses.iter().filter(|got| **got == status).count(), 2, "{method}");
            assert_eq!(total(&origins) - before, 4, "{method}");
        }
    }
}

#[test]
fn a_status_that_is_not_listed_is_passed_on() {
    for (status, on) in [(503, "[reset]"), (502, "[503, 504]"), (500, "[502, 503, 504]")] {
        let origins = [answering("a", status), answering("b", status)];
        let lb = unchecked(&origins, &format!("on: {on}"));
        let response = lb.get("/");
        assert_eq!(response.status, status);
        assert_eq!(response.text(), format!("{} is sorry", response.backend()));
        assert_eq!(total(&origins), 1);
    }
}

#[test]
fn with_every_answer_a_503_the_client_gets_the_last_one_whole() {
    for attempts in [0, 1, 2, 9] {
        let origins = [answering("a", 503), answering("b", 503), answering("c", 503)];
        let lb = unchecked(&origins, &format!("on: [503], attempts: {attempts}"));
        let response = lb.get("/");
        assert_eq!((response.status, response.complete), (503, true));
        let last = response.backend();
        assert_eq!(response.headers.get("x-own"), Some(last.as_str()));
        assert_eq!(response.text(), format!("{last} is sorry"));
        assert_eq!(total(&origins), 3.min(attempts + 1), "attempts: {attempts}");
        let entry = &lb.wait_for_entries(1)[0];
        assert_eq!((&entry["status"], &entry["reason"]), (&503.into(), &"ok".into()));
        assert_eq!(entry["backend"], last.as_str());
    }
}

#[test]
fn a_retried_status_leaves_the_clients_connection_in_order() {
    let origins = [answering("bad", 503), Origin::named("good")];
    let lb = unchecked(&origins, "on: [503]");
    let mut client = lb.client();
    let names: Vec<_> = (0..20).map(|_| client.get("/").text()).collect();
    assert_eq!(tally(&names), [("good".to_owned(), 20)].into());
}

/// How many requests reach backends that all answer 503 when 500 are sent, and how long it took.
fn storm(budget: &str) -> (usize, Duration) {
    let origins =
        [answering("a", 503), answering("b", 503), answering("c", 503), answering("d", 503)];
    let retry = format!("on: [503], attempts: 3, backoff: {{ base: 0s }}, budget: {budget}");
    let lb = unchecked(&origins, &retry);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = lb.client();
                for _ in 0..50 {
                    let response = client.get("/");
                    assert_eq!(response.status, 503);
                    assert_eq!(response.text(), format!("{} is sorry", response.backend()));
                }
            });
        }
    });
    (total(&origins), began.elapsed())
}

#[test]
fn retries_never_exceed_the_budget() {
    let (seen, took) = storm("{ percent: 20%, min_per_second: 3 }");
    // The floor is for the ten seconds of the window, and more if it took longer.
    let floor = 30 + 3 * usize::try_from(took.as_secs()).unwrap();
    assert!(seen <= 500 + 100 + floor, "{seen} in {took:?}");
    assert!(seen >= 500 + 90, "the budget is there to be used: {seen}");
}

#[test]
fn without_a_floor_the_budget_is_the_share() {
    let (seen, _) = storm("{ percent: 20%, min_per_second: 0 }");
    assert!((590..=600).contains(&seen), "{seen}");
    let (seen, _) = storm("{ percent: 0%, min_per_second: 0 }");
    assert_eq!(seen, 500);
}

#[test]
fn with_a_high_floor_every_request_has_its_attempts() {
    let (seen, _) = storm("{ percent: 0%, min_per_second: 1000 }");
    assert_eq!(seen, 2000);
}

#[test]
fn the_budget_bounds_retries_of_every_kind() {
    let origins = ["a", "b", "c"].map(|name| Origin::scripted(name, |_| Reply::close()));
    let lb = unchecked(&origins, "attempts: 2, budget: { percent: 0%, min_per_second: 1 }");
    let mut client = lb.client();
    for _ in 0..50 {
        assert_own(&client.get("/"), 502, "upstream_reset");
    }
    let retries = total(&origins) - 50;
    assert!((10..=20).contains(&retries), "{retries}");
}

#[test]
fn a_timeout_is_retried_when_it_is_listed_and_the_method_may_be_repeated() {
    let origins = [Origin::scripted("silent", |_| Reply::Hang), Origin::named("good")];
    let lb = unchecked(&origins, "on: [timeout], per_try_timeout: 200ms");
    let mut client = lb.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert!(origins[0].count() >= 2);
    let before = total(&origins);
    let statuses: Vec<_> =
        (0..4).map(|_| client.ask(request("POST", "/", &[], b"x")).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 504).count(), 2, "{statuses:?}");
    assert_eq!(total(&origins) - before, 4);
}

#[test]
fn the_read_timeout_is_retried_as_well() {
    let origins = [Origin::scripted("silent", |_| Reply::Hang), Origin::named("good")];
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    let keys = "health_check: off\ntimeouts: { read: 200ms }\nretry: { on: [timeout] }";
    let lb = Config::pool(&backends, keys).start();
    for _ in 0..4 {
        assert_eq!(lb.get("/").text(), "good");
    }
    assert!(origins[0].count() >= 2);
}

#[test]
fn a_timeout_that_is_not_listed_is_a_504_after_the_time_of_one_try() {
    let origins = [Origin::scripted("a", |_| Reply::Hang), Origin::scripted("b", |_| Reply::Hang)];
    let lb = unchecked(&origins, "per_try_timeout: 200ms");
    for method in ["GET", "POST"] {
        let asked = Instant::now();
        let response = lb.client().ask(request(method, "/", &[], b"x"));
        let took = asked.elapsed();
        assert_own(&response, 504, "upstream_timeout");
        assert!(took >= Duration::from_millis(190) && took < Duration::from_secs(2), "{took:?}");
    }
    assert_eq!(total(&origins), 2);
    assert_eq!(lb.wait_for_entries(2)[1]["reason"], "upstream_timeout");
}

#[test]
fn with_every_try_timed_out_the_answer_is_a_504() {
    let origins = ["a", "b", "c"].map(|name| Origin::scripted(name, |_| Reply::Hang));
    let lb = unchecked(&origins, "on: [timeout], per_try_timeout: 150ms, backoff: { base: 0s }");
    let asked = Instant::now();
    assert_own(&lb.get("/"), 504, "upstream_timeout");
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(440) && took < Duration::from_secs(3), "{took:?}");
    assert!(origins.iter().all(|origin| origin.count() == 1));
    assert_eq!(lb.wait_for_entries(1)[0]["tries"], 3);
}

#[test]
fn the_status_follows_the_last_try_and_not_the_one_that_timed_out() {
    let hangs = Origin::scripted("hangs", |_| Reply::Hang);
    let refuses = Origin::named("refuses");
    refuses.stop();
    // The backup is tried last.
    let backends = [hangs.entry(), refuses.entry_with("backup: true")];
    let keys = "health_check: off\n\
        retry: { on: [timeout], per_try_timeout: 200ms, backoff: { base: 0s } }";
    let lb = Config::pool(&backends, keys).start();
    assert_own(&lb.get("/"), 502, "connect_failed");
    assert_eq!(hangs.count(), 1);
}

#[test]
fn the_time_of_a_try_ends_with_the_answers_head() {
    let pieces = vec![
        (Duration::ZERO, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhead ".to_vec()),
        (Duration::from_millis(600), b"body".to_vec()),
    ];
    let origins = [Origin::scripted("slow", move |_| Reply::Pieces(pieces.clone()))];
    let lb = unchecked(&origins, "on: [timeout], per_try_timeout: 200ms");
    let response = lb.get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "head body"));
    assert!(response.complete);
}

#[test]
fn a_try_within_its_time_is_waited_for() {
    let origins = [Origin::slow("slow", Duration::from_millis(300))];
    let lb = unchecked(&origins, "on: [timeout], per_try_timeout: 5s");
    assert_eq!(lb.get("/").text(), "slow");
}

/// How long eight requests of four tries each take on average.
fn average_of_four_tries(backoff: &str) -> Duration {
    let origins = ["a", "b", "c", "d"].map(|name| Origin::scripted(name, |_| Reply::close()));
    let lb = unchecked(&origins, &format!("attempts: 3, backoff: {backoff}"));
    let took: Duration = thread::scope(|scope| {
        let ask = || {
            let asked = Instant::now();
            assert_eq!(lb.get("/").status, 502);
            asked.elapsed()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(total(&origins), 32);
    took / 8
}

#[test]
fn there_is_a_pause_before_each_retry() {
    // Three pauses of 150 ms on average; half of the sum is far from what chance can do.
    let took = average_of_four_tries("{ base: 300ms, max: 300ms }");
    assert!(took > Duration::from_millis(225), "{took:?}");
    // Doubled each time up to the most: 200, 400 and 800 ms at most, 700 ms together on average.
    let took = average_of_four_tries("{ base: 200ms, max: 800ms }");
    assert!(took > Duration::from_millis(350), "{took:?}");
}

#[test]
fn no_pause_is_longer_than_the_most() {
    let origins: Vec<_> =
        (0..10).map(|at| Origin::scripted(&format!("b{at}"), |_| Reply::close())).collect();
    let lb = unchecked(
        &origins,
        "attempts: 9, backoff: { base: 20ms, max: 20ms }, budget: { min_per_second: 100 }",
    );
    let start = Instant::now();
    for _ in 0..4 {
        assert_eq!(lb.get("/").status, 502);
    }
    assert_eq!(total(&origins), 40);
    // 36 pauses of 10 ms on average. If they doubled on and on, those of one request would take 5 s.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_body_that_is_kept_is_repeated_whole_and_a_longer_one_is_not_repeated() {
    for (breaking, what) in [(Reply::reset(), "reset"), (Reply::close(), "close")] {
        for (length, kept) in
            [(1, true), (60_000, true), (65_536, true), (65_537, false), (200_000, false)]
        {
            let breaking = breaking.clone();
            let origins =
                [Origin::scripted("dying", move |_| breaking.clone()), Origin::named("good")];
            let lb = unchecked(&origins, "backoff: { base: 0s }");
            let body: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
            let mut statuses: Vec<_> = (0..2)
                .map(|_| {
                    let mut client = lb.client();
                    client.ask(request("PUT", "/", &[], &body)).status
                })
                .collect();
            statuses.sort_unstable();
            let expected = if kept { [200, 200] } else { [200, 502] };
            assert_eq!(statuses, expected, "{what} {length}");
            let arrived = origins[1].requests();
            assert_eq!(arrived.len(), if kept { 2 } else { 1 }, "{what} {length}");
            assert!(arrived.iter().all(|request| request.body == body), "{what} {length}");
        }
    }
}

#[test]
fn a_kept_body_is_repeated_after_a_status() {
    let origins = [answering("bad", 503), Origin::named("good")];
    let lb = unchecked(&origins, "on: [503]");
    let body = vec![b'x'; 50_000];
    for _ in 0..4 {
        let fields = ["Transfer-Encoding: chunked"];
        let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
        chunked.extend_from_slice(&body);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        let response = lb.client().ask(request("PUT", "/", &fields, &chunked));
        assert_eq!(response.text(), "good");
    }
    assert!(origins[1].requests().iter().all(|request| request.body == body && request.complete));
}

#[test]
fn each_try_is_on_a_backend_not_tried_yet() {
    for balance in ["round_robin", "random", "least_connections", "p2c", "peak_ewma", "maglev"] {
        let origins: Vec<_> =
            ["a", "b", "c", "d"].map(|name| Origin::scripted(name, |_| Reply::close())).into();
        let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
        let keys = format!(
            "balance: {balance}\nhealth_check: off\nejection: off\nretry: {{ attempts: 9, backoff: {{ base: 0s }} }}"
        );
        let lb = Config::pool(&backends, &keys).start();
        for sent in 1..=3 {
            assert_eq!(lb.get("/").status, 502, "{balance}");
            assert!(origins.iter().all(|origin| origin.count() == sent), "{balance}");
        }
    }
}

#[test]
fn the_route_timeout_covers_the_pauses() {
    for reply in [Reply::close(), Reply::status(503)] {
        let origins = ["a", "b"].map(|name| {
            let reply = reply.clone();
            Origin::scripted(name, move |_| reply.clone())
        });
        let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
        let retry = "retry: { on: [reset, 503], backoff: { base: 60s, max: 60s } }";
        let lb = Config::pool(&backends, &format!("health_check: off\n{retry}"))
            .and("routes:\n  - { timeout: 500ms, pool: app }")
            .start();
        // Chance may make a pause of sixty seconds short, but not two.
        let responses = [lb.get("/"), lb.get("/")];
        assert!(responses.iter().any(|response| response.status == 504), "{responses:?}");
    }
}

#[test]
fn an_answer_before_the_body_is_whole_is_retried_with_the_whole_body() {
    let early = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
    let origins = [Origin::scripted("bad", |_| Reply::Early(early.into())), Origin::named("good")];
    let lb = unchecked(&origins, "on: [503]");
    for _ in 0..4 {
        let before = origins[0].count();
        let begun = || origins[0].count() > before || origins[1].working() == 1;
        let mut client = lb.client();
        client.send(request("PUT", "/", &["Content-Length: 11"], b""));
        client.send(b"first ");
        eventually("it is under way", begun);
        for _ in 0..20 {
            lb.get("/own");
        }
        client.send(b"other");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "good"));
    }
    assert!(origins[0].count() >= 2);
    let arrived = origins[1].requests();
    let puts: Vec<_> = arrived.iter().filter(|request| request.method == "PUT").collect();
    assert!(puts.iter().all(|put| put.complete && put.body == b"first other"), "{puts:?}");
}
