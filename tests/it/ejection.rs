//! Backends that real traffic takes out, panic, and how a backend comes back.

use crate::support::{
    Client, Config, Gate, Lb, Load, Origin, Reply, eventually, request, tally, within,
};
use std::time::{Duration, Instant};

/// Neither checks nor retries get in the way.
const PLAIN: &str = "health_check: off\nretry: { attempts: 0 }";
const EJECTED: &str = "is EJECTED";

fn numbered(count: usize) -> Vec<Origin> {
    (0..count).map(|number| Origin::named(&format!("b{number}"))).collect()
}

fn entries(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(Origin::entry).collect()
}

fn plain(origins: &[Origin], keys: &str) -> Lb {
    Config::pool(&entries(origins), &format!("{PLAIN}\n{keys}")).start()
}

/// Who answers that many requests on one connection.
fn ask(lb: &Lb, requests: usize) -> Vec<String> {
    let mut client = lb.client();
    (0..requests).map(|_| client.get("/").backend()).collect()
}

/// How many of that many requests, one after the other, fail.
fn failures(lb: &Lb, requests: usize) -> usize {
    let mut client = lb.client();
    (0..requests).filter(|_| client.get("/").status >= 500).count()
}

#[test]
fn clients_see_few_errors_of_a_backend_that_fails_everything() {
    const CLIENTS: usize = 8;
    type Spoil = fn(&Origin);
    let cases: [(&str, Spoil); 5] = [
        ("answers 500", |origin| origin.script(|_| Reply::status(500))),
        ("closes", |origin| origin.script(|_| Reply::close())),
        ("resets", |origin| origin.script(|_| Reply::reset())),
        ("hangs", |origin| origin.script(|_| Reply::Hang)),
        ("refuses", Origin::stop),
    ];
    for (what, spoil) in cases {
        let origins = numbered(10);
        spoil(&origins[3]);
        let lb = plain(&origins, "timeouts: { read: 300ms }");
        let load = Load::start(&lb.web(), CLIENTS, "/");
        let line = lb.wait_for_line(EJECTED);
        load.wait_for_more(400);
        let (_, _, failed) = load.stop();
        assert!(failed.len() >= 5 && failed.len() <= 5 + CLIENTS, "{what}: {failed:?}");
        let backend = format!("backend b3 ({}) of pool app", origins[3].address());
        assert!(line.contains(&backend), "{line}");
        assert!(line.contains("30s") && line.contains("5 failures"), "{line}");
        assert_eq!(failures(&lb, 50), 0, "{what}");
        assert_eq!(lb.lines_with(EJECTED), 1, "{what}");
    }
}

#[test]
fn while_it_stays_bad_each_return_costs_one_request_and_the_next_takes_longer() {
    let origins = numbered(3);
    origins[1].script(|_| Reply::status(500));
    let lb = plain(&origins, "ejection: { base_time: 400ms, max_time: 1s }");
    let mut client = lb.client();
    let mut failed_at = Vec::new();
    eventually("five failures and three returns", || {
        if client.get("/").status == 500 {
            failed_at.push(Instant::now());
        }
        failed_at.len() == 8
    });
    eventually("all are logged", || lb.lines_with(EJECTED) == 4);
    for (nth, time) in ["400ms", "800ms", "1s", "1s"].iter().enumerate() {
        let lines: Vec<_> = lb.program.stderr.all();
        let lines: Vec<_> = lines.iter().filter(|line| line.contains(EJECTED)).collect();
        assert!(lines[nth].contains(&format!("for {time}:")), "{lines:?}");
    }
    for (nth, least) in [(5, 390), (6, 790), (7, 990)] {
        let pause = failed_at[nth] - failed_at[nth - 1];
        assert!(pause >= Duration::from_millis(least), "return {nth}: {pause:?}");
    }
}

#[test]
fn while_it_stays_bad_each_return_costs_one_request_of_many_clients() {
    const CLIENTS: usize = 32;
    let origins = numbered(3);
    origins[1].script(|_| Reply::status(500).after(Duration::from_millis(50)));
    let lb = plain(&origins, "ejection: { base_time: 300ms, max_time: 300ms }");
    let load = Load::start(&lb.web(), CLIENTS, "/");
    eventually("the first ejection", || lb.lines_with(EJECTED) == 1);
    // Those that were on the way when it went out are over when it has failed once more.
    eventually("the first return", || lb.lines_with(EJECTED) == 2);
    let before = origins[1].count();
    eventually("five more returns", || lb.lines_with(EJECTED) == 7);
    let returns = origins[1].count() - before;
    drop(load.stop());
    // Two may meet at its door, now and then.
    assert!((5..=10).contains(&returns), "{returns} requests in five returns");
}

#[test]
fn a_backend_that_is_good_again_gets_its_share_again() {
    let origins = numbered(3);
    origins[1].script(|_| Reply::status(500));
    let lb = plain(&origins, "ejection: { base_time: 300ms }");
    eventually("an ejection", || {
        lb.get("/");
        lb.lines_with(EJECTED) == 1
    });
    origins[1].script(|_| Reply::text("b1"));
    lb.wait_for_line("backend b1 ");
    eventually("it serves again", || lb.get("/").backend() == "b1");
    // The log is written behind the requests.
    eventually("its return is logged", || lb.lines_with("is back from its ejection") > 0);
    assert_eq!(lb.lines_with("is back from its ejection"), 1);
    assert_eq!(tally(&ask(&lb, 30))["b1"], 10);
    // Its past is forgotten: five failures, and the time of a first ejection.
    origins[1].script(|_| Reply::status(500));
    eventually("another ejection", || {
        lb.get("/");
        lb.lines_with(EJECTED) == 2
    });
    assert_eq!(lb.lines_with("EJECTED for 300ms: 5 failures"), 2);
}

#[test]
fn a_backend_that_went_down_and_came_back_is_no_longer_ejected() {
    let origins = numbered(2);
    let check = "health_check: { interval: 400ms, timeout: 400ms, rise: 1, fall: 2, jitter: 0% }";
    let lb = Config::pool(&entries(&origins), check).start();
    origins[0].stop();
    // Requests are refused before the checks have noticed; its first ejection would last 30 s.
    eventually("it is ejected", || {
        lb.get("/");
        lb.lines_with(EJECTED) == 1
    });
    lb.wait_for_line("is DOWN");
    let before = origins[0].count();
    origins[0].start();
    let back = Instant::now();
    eventually("it serves again", || {
        lb.get("/");
        origins[0].count() > before
    });
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
}

#[test]
fn an_answer_that_is_no_failure_begins_the_count_anew() {
    let origin = Origin::scripted("b1", {
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 5 {
            4 => Reply::status(404),
            _ => Reply::status(500),
        }
    });
    let origins = [Origin::named("b0"), origin];
    let lb = plain(&origins, "ejection: { base_time: 60s }");
    assert_eq!(failures(&lb, 100), 40);
    assert_eq!(lb.lines_with(EJECTED), 0);
    origins[1].script(|_| Reply::status(429));
    assert_eq!(tally(&ask(&lb, 40))["b1"], 20);
}

#[test]
fn the_number_of_failures_is_as_configured() {
    for number in [1, 3] {
        let origins = numbered(3);
        origins[1].script(|_| Reply::status(503));
        let lb = plain(&origins, &format!("ejection: {{ consecutive_failures: {number} }}"));
        assert_eq!(failures(&lb, 60), number);
    }
}

#[test]
fn clients_that_abort_never_eject() {
    let gate = Gate::default();
    let origins = numbered(2);
    for origin in &origins {
        let gate = gate.clone();
        origin.script(move |_| Reply::text("late").behind(&gate));
    }
    let config = Config::pool(
        &entries(&origins),
        &format!("{PLAIN}\nejection: {{ consecutive_failures: 1 }}"),
    );
    let lb = config.access_log().start();
    for sent in 1..=10 {
        let mut client = lb.client();
        client.send(request("GET", "/", &[], b""));
        eventually("the request arrives", || origins[0].working() + origins[1].working() == sent);
        if sent % 2 == 0 { client.reset() } else { drop(client) }
    }
    // A client that only says it will send no more is answered; the others are gone.
    gate.open();
    let entries = lb.wait_for_entries(10);
    assert!(entries.iter().all(|entry| entry["reason"] == "client_aborted"), "{entries:?}");
    assert_eq!(tally(&ask(&lb, 10)).len(), 2);
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn clients_that_are_slow_never_eject() {
    let origins = numbered(2);
    let keys = format!("{PLAIN}\nejection: {{ consecutive_failures: 1 }}");
    let lb = Config::pool(&entries(&origins), &keys)
        .listener("timeouts: { body_idle: 200ms, write: 200ms }")
        .access_log()
        .start();
    for _ in 0..4 {
        let mut client = lb.client();
        client.send(request("POST", "/", &["Content-Length: 100"], b""));
        client.send("a bit of it");
        assert_eq!(client.response().status, 408);
    }
    for origin in &origins {
        origin.script(|_| Reply::Zeros(64 << 20));
    }
    let readers: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = lb.client();
            client.send(request("GET", "/", &[], b""));
            client
        })
        .collect();
    let entries = lb.wait_for_entries(8);
    assert!(entries.iter().all(|entry| entry["reason"] == "client_timeout"), "{entries:?}");
    drop(readers);
    for origin in &origins {
        origin.script(|_| Reply::text("fine"));
    }
    assert_eq!(tally(&ask(&lb, 10)).len(), 2);
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn with_every_backend_bad_no_more_than_the_share_is_ejected() {
    for (percent, most) in [("30%", 3), ("39%", 3), ("0%", 1)] {
        let origins = numbered(10);
        for origin in &origins {
            origin.script(|_| Reply::status(500));
        }
        let lb = plain(&origins, &format!("ejection: {{ max_percent: {percent} }}"));
        let load = Load::start(&lb.web(), 8, "/");
        load.wait_for_more(400);
        drop(load.stop());
        eventually("the share is ejected", || lb.lines_with(EJECTED) >= most);
        assert_eq!(failures(&lb, 50), 50, "the others answer for themselves");
        assert_eq!(lb.lines_with(EJECTED), most, "{percent}");
        assert_eq!(tally(&ask(&lb, 50)).len(), 10 - most, "{percent}");
    }
}

#[test]
fn the_only_backend_is_never_ejected() {
    let origins = [Origin::scripted("alone", |_| Reply::status(500))];
    let lb = plain(&origins, "ejection: { consecutive_failures: 1, max_percent: 100% }");
    assert_eq!(tally(&ask(&lb, 30)), [("alone".to_owned(), 30)].into());
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn the_only_one_that_takes_requests_is_never_ejected() {
    let origins = numbered(3);
    origins[0].script(|_| Reply::status(500));
    let backends = [
        origins[0].entry(),
        origins[1].entry_with("state: disabled"),
        origins[2].entry_with("state: draining"),
    ];
    let keys = format!("{PLAIN}\nejection: {{ consecutive_failures: 1 }}");
    let lb = Config::pool(&backends, &keys).start();
    assert_eq!(tally(&ask(&lb, 30)), [("b0".to_owned(), 30)].into());
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn with_every_backend_ejected_there_is_nobody_to_ask() {
    let origins = numbered(2);
    for origin in &origins {
        origin.script(|_| Reply::status(500));
    }
    let lb = plain(&origins, "ejection: { consecutive_failures: 1, max_percent: 100% }");
    assert_eq!(failures(&lb, 2), 2);
    let response = lb.get("/");
    assert!(response.text().contains("no_healthy_backend"), "{}", response.text());
}

#[test]
fn ejection_can_be_turned_off() {
    let origins = numbered(2);
    origins[1].script(|_| Reply::status(500));
    let lb = plain(&origins, "ejection: off");
    assert_eq!(failures(&lb, 60), 30);
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn a_retry_hides_the_failures_that_eject() {
    let origins = numbered(3);
    origins[1].script(|_| Reply::close());
    let lb = Config::pool(&entries(&origins), "health_check: off").start();
    assert_eq!(failures(&lb, 60), 0);
    assert_eq!(lb.lines_with(EJECTED), 1);
    assert_eq!(origins[1].count(), 5);
}

const QUICK: &str = "interval: 150ms, timeout: 150ms, rise: 1, fall: 1, jitter: 0%";

/// Four backends, of which so many fail their checks, and a fifth that is disabled.
fn failing_checks(failing: usize, keys: &str) -> (Vec<Origin>, Lb) {
    let origins = numbered(5);
    for (at, origin) in origins.iter().enumerate() {
        let health = if at < failing { 500 } else { 200 };
        let name = origin.name().to_owned();
        origin.script(move |request| match request.path() {
            "/health" => Reply::status(health),
            _ => Reply::text(name.clone()),
        });
    }
    let mut backends = entries(&origins);
    backends[4] = origins[4].entry_with("state: disabled");
    let check = format!("health_check: {{ http: {{ path: /health }}, {QUICK} }}\n{keys}");
    let lb = Config::pool(&backends, &check).start();
    (origins, lb)
}

#[test]
fn below_the_panic_threshold_all_are_used_but_those_that_are_disabled() {
    let (origins, lb) = failing_checks(3, "panic_threshold: 50%");
    let counts = tally(&ask(&lb, 80));
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["b0", "b1", "b2", "b3"]);
    assert!(counts.values().all(|count| *count == 20), "{counts:?}");
    assert!(origins[4].traffic().is_empty());
}

#[test]
fn panic_is_over_when_enough_are_usable_again() {
    let (origins, lb) = failing_checks(3, "panic_threshold: 50%");
    assert_eq!(tally(&ask(&lb, 80)).len(), 4);
    origins[0].script(|request| match request.path() {
        "/health" => Reply::status(200),
        _ => Reply::text("b0"),
    });
    lb.wait_for_line("is UP");
    assert_eq!(tally(&ask(&lb, 80)).len(), 2);
}

#[test]
fn without_a_panic_threshold_only_the_healthy_one_is_used() {
    for keys in ["", "panic_threshold: 0%", "panic_threshold: 25%"] {
        let (_origins, lb) = failing_checks(3, keys);
        assert_eq!(tally(&ask(&lb, 80)), [("b3".to_owned(), 80)].into(), "{keys}");
    }
}

#[test]
fn with_none_usable_panic_is_the_difference_between_some_answer_and_none() {
    let (_origins, lb) = failing_checks(4, "panic_threshold: 50%");
    assert_eq!(tally(&ask(&lb, 80)).len(), 4);
    let (_origins, lb) = failing_checks(4, "");
    assert_eq!(lb.get("/").status, 503);
}

#[test]
fn backends_that_are_ejected_count_as_unusable_for_panic() {
    let origins = numbered(4);
    for origin in &origins[..3] {
        origin.script(|_| Reply::status(500));
    }
    let ejection = "ejection: { consecutive_failures: 1, max_percent: 100% }";
    let lb = plain(&origins, &format!("{ejection}\npanic_threshold: 50%"));
    eventually("three are ejected", || {
        lb.get("/");
        lb.lines_with(EJECTED) == 3
    });
    eventually("all are used", || tally(&ask(&lb, 16)).len() == 4);
}

/// Two backends of which the second has just come back from failing its checks.
fn come_back(policy: &str, slow_start: &str) -> (Vec<Origin>, Lb) {
    let origins = numbered(2);
    let keys = format!(
        "health_check: {{ {QUICK} }}\nejection: off\nbalance: {policy}\nslow_start: {slow_start}"
    );
    let lb = Config::pool(&entries(&origins), &keys).start();
    let counts = tally(&ask(&lb, 100));
    let at_boot = counts.get("b1").copied().unwrap_or(0);
    assert!((25..=75).contains(&at_boot), "{policy}: at boot there is none: {counts:?}");
    origins[1].stop();
    lb.wait_for_line("is DOWN");
    origins[1].start();
    lb.wait_for_line("is UP");
    (origins, lb)
}

/// How many of a hundred requests the second backend gets.
fn share(lb: &Lb) -> usize {
    tally(&ask(lb, 100)).get("b1").copied().unwrap_or(0)
}

#[track_caller]
fn assert_slow_start(policy: &str) {
    let (_origins, lb) = come_back(policy, "3s");
    let first = share(&lb);
    assert!(first < 30, "{policy}: {first} of 100 at once");
    let full = within(Duration::from_secs(10), || share(&lb) >= 35);
    assert!(full, "{policy}: it never gets its share");
}

#[test]
fn round_robin_lets_a_backend_come_back_slowly() {
    assert_slow_start("round_robin");
}

#[test]
fn random_lets_a_backend_come_back_slowly() {
    assert_slow_start("random");
}

#[test]
fn least_connections_lets_a_backend_come_back_slowly() {
    assert_slow_start("least_connections");
}

#[test]
fn p2c_lets_a_backend_come_back_slowly() {
    assert_slow_start("p2c");
}

/// How many of 96 requests the second of two backends gets from eight clients right after it has
/// come back from failing its checks, and whether it has its share in the end.
fn shares_by_peak_ewma(slow_start: &str) -> (usize, bool) {
    // One that nothing is in flight on is asked by how fast it was of late, which is chance.
    let origins = ["b0", "b1"].map(|name| Origin::slow(name, Duration::from_millis(30)));
    let keys = format!(
        "health_check: {{ {QUICK} }}\nejection: off\nbalance: peak_ewma\nslow_start: {slow_start}"
    );
    let lb = Config::pool(&entries(&origins), &keys).start();
    let share = || {
        let names: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&lb, 12))).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        tally(&names).get("b1").copied().unwrap_or(0)
    };
    eventually("both have their share", || share() >= 30);
    origins[1].stop();
    lb.wait_for_line("is DOWN");
    origins[1].start();
    lb.wait_for_line("is UP");
    (share(), within(Duration::from_secs(10), || share() >= 30))
}

#[test]
fn peak_ewma_lets_a_backend_come_back_slowly() {
    let (first, full) = shares_by_peak_ewma("4s");
    assert!(first < 24 && full, "{first} of 96 at once, and then its share: {full}");
    let (first, _) = shares_by_peak_ewma("0s");
    assert!(first >= 24, "{first} of 96 at once, without a slow start");
}

#[test]
fn without_slow_start_a_backend_has_its_share_at_once() {
    let (_origins, lb) = come_back("round_robin", "0s");
    assert_eq!(share(&lb), 50);
}

#[test]
fn a_backend_comes_back_slowly_from_an_ejection() {
    let origins = numbered(2);
    origins[1].script(|_| Reply::status(500));
    let lb = plain(&origins, "ejection: { base_time: 300ms }\nslow_start: 3s");
    eventually("an ejection", || {
        lb.get("/");
        lb.lines_with(EJECTED) == 1
    });
    origins[1].script(|_| Reply::text("b1"));
    lb.wait_for_line("is back from its ejection");
    let first = share(&lb);
    assert!(first < 30, "{first} of 100 at once");
    eventually("it gets its share", || share(&lb) >= 40);
}
