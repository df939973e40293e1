//! What a line in the access log costs the request it is about.
//!
//! `cargo bench --bench access_log`. Lines go to `/dev/null`: the writer's work is not measured,
//! other than through the lock it shares.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use pingora_lb::{
    model::{self, AccessLogFormat, LogTarget},
    observe::{AccessLog, AccessRecord},
};
use std::time::{Duration, SystemTime};

fn main() {
    divan::main();
}

#[divan::bench(
    args = [AccessLogFormat::Json, AccessLogFormat::Combined],
    threads = [1, 2],
    sample_size = 4096
)]
fn line(bencher: Bencher<'_, '_>, format: AccessLogFormat) {
    let settings = model::AccessLog { path: LogTarget::File("/dev/null".into()), format };
    let log = AccessLog::open(&settings).expect("/dev/null can be opened");
    let record = AccessRecord {
        time: SystemTime::now(),
        method: "GET",
        host: "www.example.com",
        path: "/some/page.html?with=a&query=string",
        status: 200,
        bytes_in: 0,
        bytes_out: 12_345,
        duration: Duration::from_micros(12_345),
        queue: None,
        connect: Some(Duration::from_micros(321)),
        upstream: Some(Duration::from_micros(11_111)),
        client_ip: Some([192, 0, 2, 1].into()),
        listener: "web",
        route: Some("pages"),
        pool: Some("app"),
        backend: Some("10.0.0.1:9000"),
        tries: 1,
        reason: "ok",
        request_id: "0192f3a1b2c3d4e5f60718293a4b5c6d",
        protocol: "HTTP/1.1",
        tls: None,
        user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        referer: Some(b"https://www.example.com/"),
    };
    bencher.bench(|| log.log(black_box(&record)));
    if log.dropped() > 0 {
        println!("{} lines were dropped", log.dropped());
    }
}
