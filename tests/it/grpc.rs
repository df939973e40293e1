//! gRPC through the balancer, on the `h2` crate: messages are framed by hand.

use crate::support::{
    Address, Authority, Config, Lb, Origin, Reserved, TlsClient, TlsFront, eventually,
    h2::{END_HEADERS, END_STREAM, Frames, H2, HEADERS, asking, request as head},
    h2_origin::{Asked, H2Origin},
    request, tally,
};
use bytes::Bytes;
use http::{HeaderMap, Request};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

const GRPC: &str = "application/grpc";

fn message(text: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn call(path: &str) -> Request<()> {
    let call = asking("POST", path).header("content-type", GRPC).header("te", "trailers");
    call.header("grpc-timeout", "5S").body(()).unwrap()
}

fn trailers(code: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("grpc-message", "as%20it%20was".parse().unwrap());
    trailers
}

/// Answers each message as it comes; the path says with which code it ends.
async fn echo(mut asked: Asked) {
    let mut reply = asked.begin(200, &[("content-type", GRPC)]);
    while let Some(Ok(piece)) = asked.body.data().await {
        let _ = asked.body.flow_control().release_capacity(piece.len());
        let _ = reply.send_data(piece, false);
    }
    let code = asked.seen.path.rsplit('/').next().unwrap_or("2").to_owned();
    let _ = reply.send_trailers(trailers(&code));
}

/// Answers a health check with SERVING.
async fn healthy(mut asked: Asked) {
    asked.read().await;
    let mut reply = asked.begin(200, &[("content-type", GRPC)]);
    let _ = reply.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false);
    let _ = reply.send_trailers(trailers("0"));
}

fn start(origins: &[&H2Origin], keys: &str) -> Lb {
    let backends: Vec<_> = origins.iter().map(|origin| origin.entry()).collect();
    Config::pool(&backends, &format!("protocol: http2\nejection: off\n{keys}"))
        .listener("h2c: true")
        .access_log()
        .start()
}

#[test]
fn a_call_has_its_messages_its_status_and_its_timeout() {
    let origin = H2Origin::scripted("app-1", echo);
    let lb = start(&[&origin], "health_check: off");
    let client = H2::connect(&lb.web());
    for code in ["0", "5"] {
        let answer = client.ask(call(&format!("/echo/{code}")), &message("hello")).unwrap();
        assert_eq!((answer.status.as_u16(), answer.field("content-type")), (200, GRPC));
        assert_eq!(answer.body, message("hello"));
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], code);
        assert_eq!(trailers["grpc-message"], "as%20it%20was");
    }
    let seen = &origin.requests()[0];
    assert_eq!(
        (&seen.headers["te"], &seen.headers["grpc-timeout"]),
        (&"trailers".parse().unwrap(), &"5S".parse().unwrap())
    );
    assert_eq!(seen.headers["content-type"], GRPC);
}

/// Ends with trailers of which some are out of place.
async fn misplacing(mut asked: Asked) {
    let mut all = trailers("0");
    for (name, value) in [("content-type", GRPC), ("set-cookie", "a=b"), ("content-length", "0")] {
        all.insert(name, value.parse().unwrap());
    }
    let mut reply = asked.begin(200, &[("content-type", GRPC)]);
    let _ = reply.send_data(Bytes::from(message("hello")), false);
    let _ = reply.send_trailers(all);
}

#[test]
fn trailers_that_are_out_of_place_are_dropped() {
    let origin = H2Origin::scripted("app-1", misplacing);
    let lb = start(&[&origin], "health_check: off");
    let answer = H2::connect(&lb.web()).ask(call("/"), &message("hello")).unwrap();
    assert_eq!(answer.trailers, Some(trailers("0")));
}

#[test]
fn messages_flow_both_ways_while_the_call_lasts() {
    let origin = H2Origin::scripted("app-1", echo);
    let lb = start(&[&origin], "health_check: off");
    let client = H2::connect(&lb.web());
    let mut stream = client.begin(call("/chat/0"), false);
    let mut answer = stream.head().unwrap();
    for round in 0..20 {
        let said = message(&format!("round {round}"));
        stream.send(&said, false);
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            heard.extend(client.run(answer.body_mut().data()).unwrap().unwrap());
        }
        assert_eq!(heard, said);
    }
    stream.send(b"", true);
    let rest = stream.rest(answer).unwrap();
    assert_eq!(rest.trailers.unwrap()["grpc-status"], "0");
}

#[test]
fn either_side_may_send_many_messages() {
    let origin = H2Origin::scripted("app-1", |mut asked| async move {
        if asked.seen.path == "/collect" {
            let all = asked.read().await;
            let mut reply = asked.begin(200, &[("content-type", GRPC)]);
            let _ = reply.send_data(message(&all.len().to_string()).into(), false);
            let _ = reply.send_trailers(trailers("0"));
            return;
        }
        asked.read().await;
        let mut reply = asked.begin(200, &[("content-type", GRPC)]);
        for number in 0..50 {
            let _ = reply.send_data(message(&number.to_string()).into(), false);
        }
        let _ = reply.send_trailers(trailers("8"));
    });
    let lb = start(&[&origin], "health_check: off");
    let client = H2::connect(&lb.web());
    let mut collect = client.begin(call("/collect"), false);
    for number in 0..50 {
        collect.send(&message("hello"), number == 49);
    }
    let answer = collect.answer().unwrap();
    assert_eq!(answer.body, message("500"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let answer = client.ask(call("/stream"), &message("go")).unwrap();
    let expected: Vec<u8> = (0..50).flat_map(|number| message(&number.to_string())).collect();
    assert_eq!(answer.body, expected);
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "8");
}

#[test]
fn what_a_backend_says_of_a_call_is_passed_on() {
    let origin = H2Origin::scripted("app-1", |mut asked| async move {
        let head = http::Response::builder().header("content-type", GRPC);
        let head = head.header("grpc-status", "7").header("grpc-message", "no");
        let _ = asked.respond.send_response(head.body(()).unwrap(), true);
    });
    let lb = start(&[&origin], "health_check: off");
    let answer = H2::connect(&lb.web()).ask(call("/a/b"), &message("hello")).unwrap();
    assert_eq!([answer.field("grpc-status"), answer.field("grpc-message")], ["7", "no"]);
    assert!(answer.body.is_empty() && answer.trailers.is_none());
}

#[test]
fn calls_on_one_connection_are_balanced_one_by_one() {
    let origins: Vec<_> = ["a", "b", "c", "d"].map(|name| H2Origin::scripted(name, echo)).into();
    let lb = start(&origins.iter().collect::<Vec<_>>(), "health_check: off");
    let client = H2::connect(&lb.web());
    for _ in 0..20 {
        assert_eq!(client.ask(call("/echo/0"), &message("hi")).unwrap().body, message("hi"));
    }
    let counts: Vec<_> = origins.iter().map(H2Origin::count).collect();
    assert_eq!(counts, [5; 4]);
}

#[test]
fn what_goes_wrong_here_is_said_as_grpc_says_it() {
    let hang = H2Origin::scripted("hang", |asked| async move {
        std::future::pending::<()>().await;
        drop(asked);
    });
    let gone = Reserved::new();
    let config = format!(
        "pools:\n  hang: {{ backends: [{}], protocol: http2, health_check: off }}\n  \
         gone: {{ backends: [\"{}\"], protocol: http2, health_check: off, ejection: off }}\n  \
         down: {{ backends: [\"{1}\"], protocol: http2, health_check: {{ tcp: {{}} }} }}\n\
         routes:\n  - {{ match: {{ path: /hang }}, pool: hang, timeout: 300ms }}\n  \
         - {{ match: {{ path: /gone }}, pool: gone }}\n  - {{ match: {{ path: /down }}, pool: down }}\n  \
         - {{ match: {{ path: /fixed }}, respond: {{ status: 403, body: no }} }}\n",
        hang.entry(),
        gone.address()
    );
    let lb = Config::new(config).listener("h2c: true").access_log().start();
    let client = H2::connect(&lb.web());
    let cases = [
        ("/nothing", "12", "404 Not Found: no_route"),
        ("/down", "14", "503 Service Unavailable: no_healthy_backend"),
        ("/gone", "14", "502 Bad Gateway: connect_failed"),
        ("/hang", "4", "504 Gateway Timeout: upstream_timeout"),
        ("/%00", "13", "400 Bad Request: bad_request"),
    ];
    for (at, (path, code, message)) in cases.into_iter().enumerate() {
        let began = Instant::now();
        let answer = client.ask(call(path), b"").unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "before the client's own deadline");
        assert_eq!((answer.status.as_u16(), answer.field("content-type")), (200, GRPC), "{path}");
        assert_eq!(answer.field("grpc-status"), code, "{path}");
        assert_eq!(answer.field("grpc-message"), message, "{path}");
        assert!(answer.body.is_empty() && !answer.field("x-request-id").is_empty(), "{path}");
        let reason = lb.wait_for_entries(at + 1)[at]["reason"].as_str().unwrap().to_owned();
        assert!(message.ends_with(&reason), "{path}: {reason}");
    }
    // A fixed response is no failure, and others get what they always got: gRPC-Web is another protocol,
    // and in HTTP/1 there is no gRPC.
    assert_eq!(client.ask(call("/fixed"), b"").unwrap().status, 403);
    assert_eq!(client.get("/down").status, 503);
    let web = asking("POST", "/down").header("content-type", "application/grpc-web");
    assert_eq!(client.ask(web.body(()).unwrap(), b"").unwrap().status, 503);
    let h1 = request("POST", "/down", &["Content-Type: application/grpc"], b"");
    assert_eq!(lb.client().ask(h1).status, 503);
    // All of it in one frame: a client must not wait for a body.
    let mut raw = Frames::connect(&lb.web());
    raw.send(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &head("POST", "/nothing", &[("content-type", GRPC)]),
    );
    assert_eq!(raw.end_of(1).kind, HEADERS);
}

#[test]
fn what_filters_and_limits_refuse_is_said_as_grpc_says_it() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let origin = H2Origin::scripted("app-1", move |asked| {
        let held = held.clone();
        async move {
            let _ = held.acquire().await;
            echo(asked).await;
        }
    });
    let backends = format!("backends: [{}], protocol: http2, health_check: off", origin.entry());
    let routes = [
        ("denied", "ip_filter: { deny: [127.0.0.1] }"),
        ("unknown", "basic_auth: { file: users, realm: site }"),
        ("limited", "rate_limit: { requests: 1, per: 1h, key: route }"),
    ];
    let routes = routes.map(|(name, filter)| {
        format!("  - {{ match: {{ path_prefix: /{name} }}, pool: app, filters: [{filter}] }}\n")
    });
    let config = format!(
        "routes:\n{}  - {{ match: {{ path_prefix: /full }}, pool: full }}\n\
         pools:\n  app: {{ {backends} }}\n  \
         full: {{ {backends}, limits: {{ connections_per_backend: 1 }} }}\n",
        routes.concat()
    );
    let lb = Config::new(config)
        .listener("h2c: true")
        .file("users", "a:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")
        .start();
    let client = H2::connect(&lb.web());
    let mut taking_turns =
        [client.begin(call("/limited/0"), false), client.begin(call("/full/0"), false)];
    eventually("both are there", || origin.working() == 2);
    for (path, code, why) in [
        ("/denied", "7", "403 Forbidden: denied"),
        ("/unknown", "16", "401 Unauthorized: denied"),
        ("/limited", "14", "429 Too Many Requests: rate_limited"),
        ("/full", "14", "503 Service Unavailable: overloaded"),
    ] {
        let answer = client.ask(call(path), &message("hi")).unwrap();
        assert_eq!((answer.status.as_u16(), answer.field("content-type")), (200, GRPC), "{path}");
        let said = [answer.field("grpc-status"), answer.field("grpc-message")];
        assert_eq!(said, [code, why], "{path}");
        assert!(answer.body.is_empty(), "{path}");
    }
    gate.add_permits(2);
    for stream in &mut taking_turns {
        stream.send(b"", true);
    }
    for stream in taking_turns {
        assert_eq!(stream.answer().unwrap().trailers.unwrap()["grpc-status"], "0");
    }
}

#[test]
fn calls_go_over_unix_sockets_on_both_sides() {
    let origin = H2Origin::unix("app-1", |asked| async move {
        match asked.seen.path.as_str() {
            "/grpc.health.v1.Health/Check" => healthy(asked).await,
            _ => echo(asked).await,
        }
    });
    let keys = "protocol: http2\nhealth_check: { grpc: {} }";
    let listeners = "listeners:\n  web: { address: \"unix:@DIR@/lb.sock\", h2c: true }\n";
    let lb = Config::pool(&[origin.entry()], keys).and(listeners).without_probe().start();
    lb.wait_for_line("listening on");
    let client = H2::connect(&Address::Unix(lb.directory().join("lb.sock")));
    for code in ["0", "5"] {
        let answer = client.ask(call(&format!("/echo/{code}")), &message("hello")).unwrap();
        assert_eq!(answer.body, message("hello"));
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], code);
    }
    let paths: Vec<_> = origin.requests().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths[0], "/grpc.health.v1.Health/Check", "{paths:?}");
}

#[test]
fn a_health_check_asks_by_the_protocol_of_grpc() {
    // 1 is SERVING, 2 is NOT_SERVING; 9 is an error of the call.
    let health = Arc::new(AtomicU8::new(2));
    let state = health.clone();
    let sick = H2Origin::scripted("sick", move |mut asked| {
        let state = state.clone();
        async move {
            if asked.seen.path != "/grpc.health.v1.Health/Check" {
                return asked.answer("sick");
            }
            let question = asked.read().await;
            let state = state.load(SeqCst);
            let code = if question == message("\n\u{5}a.Svc") && state != 9 { "0" } else { "12" };
            let mut reply = asked.begin(200, &[("content-type", GRPC)]);
            let _ = reply.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, state]), false);
            let _ = reply.send_trailers(trailers(code));
        }
    });
    let well = H2Origin::scripted("well", |mut asked| async move {
        if asked.seen.path != "/grpc.health.v1.Health/Check" {
            return asked.answer("well");
        }
        healthy(asked).await;
    });
    let check = "health_check: { grpc: { service: a.Svc }, interval: 50ms, rise: 1, fall: 1 }";
    let lb = start(&[&sick, &well], check);
    let names = || tally(&(0..6).map(|_| lb.get("/").text()).collect::<Vec<_>>());
    assert_eq!(names().get("well"), Some(&6));
    lb.wait_for_line("NOT_SERVING");
    health.store(1, SeqCst);
    eventually("it is back", || names().get("sick") == Some(&3));
    health.store(9, SeqCst);
    eventually("it is out again", || names().get("well") == Some(&6));
    lb.wait_for_line("UNIMPLEMENTED");
}

#[test]
fn calls_and_their_health_checks_go_over_tls() {
    let h2 = H2Origin::scripted("app-1", |asked| async move {
        if asked.seen.path == "/grpc.health.v1.Health/Check" {
            healthy(asked).await;
        } else {
            echo(asked).await;
        }
    });
    let (authority, h1) = (Authority::new("authority"), Origin::named("old"));
    let certificate = authority.server(&["test.example"]);
    let good = TlsFront::speaking(&["h2"], &h2, &h1, &certificate);
    let old = TlsFront::speaking(&[], &h2, &h1, &certificate);
    let keys = "tls: { ca: ca.pem, sni: test.example }\nprotocol: auto\nhealth_check: { grpc: {} }";
    let listener = "tls: { certificates: [{ cert: lb.pem, key: lb.key }] }";
    let lb = Config::pool(&[old.entry("old"), good.entry("good")], keys)
        .file("ca.pem", authority.pem.clone())
        .certificate("lb", &certificate)
        .listener(listener)
        .start();
    let line = lb.wait_for_line("backend old");
    assert!(line.ends_with("did not choose h2 by ALPN"), "{line}");
    let client = H2::over_tls(&lb.web(), &TlsClient::new(&authority), "test.example");
    for _ in 0..4 {
        let answer = client.ask(call("/echo/3"), &message("hello")).unwrap();
        assert_eq!(answer.body, message("hello"));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "3");
    }
    assert_eq!(h1.count(), 0);
}

#[test]
fn a_thousand_streams_over_ten_connections_spread_over_four_backends() {
    let gate = Arc::new(Semaphore::new(0));
    let origins: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| {
            let gate = gate.clone();
            H2Origin::scripted(name, move |mut asked| {
                let gate = gate.clone();
                async move {
                    let _ = gate.acquire().await;
                    asked.read().await;
                    let mut reply = asked.begin(200, &[("content-type", GRPC)]);
                    let _ = reply.send_data(message(name).into(), false);
                    let _ = reply.send_trailers(trailers("0"));
                }
            })
        })
        .collect();
    for policy in ["round_robin", "least_connections"] {
        let seen = |origin: &H2Origin| (origin.count(), origin.connections());
        let before: Vec<_> = origins.iter().map(seen).collect();
        let all: Vec<_> = origins.iter().collect();
        let lb = start(&all, &format!("health_check: off\nbalance: {policy}"));
        let clients: Vec<_> = (0..10).map(|_| H2::connect(&lb.web())).collect();
        let mut streams = Vec::new();
        for client in &clients {
            for _ in 0..100 {
                let mut stream = client.begin(call("/unary/0"), false);
                stream.send(&message("hi"), true);
                streams.push(stream);
            }
        }
        eventually("all are there", || {
            origins.iter().map(H2Origin::working).sum::<usize>() == 1000
        });
        for (origin, (calls, connections)) in origins.iter().zip(before) {
            let share = origin.count() - calls;
            assert!((225..=275).contains(&share), "{policy}: {share}");
            // Three have room for them. Threads do not always see what others do at that moment.
            let connections = origin.connections() - connections;
            assert!(connections <= 10, "{policy}: {connections} connections for {share} calls");
        }
        gate.add_permits(1_000_000);
        for stream in streams {
            let answer = stream.answer().unwrap();
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        }
        gate.forget_permits(1_000_000);
        eventually("they are idle", || origins.iter().all(|origin| origin.working() == 0));
        let entries = lb.wait_for_entries(1000);
        assert!(entries.iter().all(|entry| entry["reason"] == "ok"));
    }
}
