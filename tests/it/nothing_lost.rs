//! Reloads and hand-overs under clients of every kind: no request is lost, none comes twice, and nothing
//! is left behind.

use crate::support::{
    Authority, Client, Config, Lb, Origin, Program, SOON, TlsClient,
    crowd::{self, Crowd, Targets},
    lb::server,
    request, within,
};
use std::{fs, time::Duration};

/// How much is done: what `make upgrade-proof` says, or less where nobody wants to wait for it.
struct Scale {
    reloads: usize,
    hand_overs: usize,
    /// How long a slow body and a tunnel take.
    slow: Duration,
    drain_timeout: Duration,
}

impl Scale {
    fn of_this_run() -> Self {
        let number = |name: &str, short: usize| {
            std::env::var(name).map_or(short, |number| number.parse().unwrap())
        };
        let seconds = |seconds: usize| Duration::from_secs(seconds as u64);
        let slow = seconds(number("SLOW_SECONDS", 1));
        Self {
            reloads: number("RELOADS", 5),
            hand_overs: number("HAND_OVERS", 2),
            slow,
            // Slow ones are to end by themselves, also on a busy machine.
            drain_timeout: slow * 2 + seconds(20),
        }
    }
}

fn started(backends: &[Origin], scale: &Scale) -> (Lb, Targets) {
    let authority = Authority::new("crowd");
    let list = backends[..2].iter().map(|backend| format!("      - {}\n", backend.entry()));
    let list: String = list.collect();
    let text = format!(
        "admin: {{ address: \"@2@\", hosts: [test.example] }}\n\
         listeners:\n  web: {{ address: \"@WEB@\", h2c: true }}\n  \
         tls: {{ address: \"@3@\", tls: {{ certificates: [{{ cert: a.pem, key: a.key }}] }} }}\n  \
         tcp: {{ address: \"@4@\", protocol: tcp, pool: tcp }}\n\
         routes: [{{ pool: app }}]\n\
         pools:\n  app:\n    backends:\n{list}    timeouts: {{ idle: 1s }}\n  tcp:\n    backends:\n{list}{}",
        server(&format!("drain_timeout: {}s", scale.drain_timeout.as_secs()))
    );
    let lb = Config::new(text).certificate("a", &authority.server(&["test.example"])).start();
    let targets = Targets {
        web: lb.web(),
        tls: lb.extra(3),
        tcp: lb.extra(4),
        trust: TlsClient::new(&authority),
    };
    (lb, targets)
}

/// Has the configuration read again, by HUP or through the admin API, and sees to it that it changed
/// something.
#[track_caller]
fn reload(lb: &Lb, by_signal: bool) {
    if by_signal {
        let told = lb.reload();
        assert!(told.contains("reloaded with 2 changes"), "{told}");
        return;
    }
    let mut admin = Client::connect(&lb.extra(2));
    admin.set_patience(SOON);
    let response = admin.ask(request("POST", "/api/v1/reload", &["Connection: close"], b""));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["changes"].as_array().map(Vec::len), Some(2));
}

/// Processes that run with this configuration.
fn processes(lb: &Lb) -> usize {
    let path = lb.path().to_str().unwrap();
    let commands = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok());
    commands.filter(|command| command.contains(path)).count()
}

#[test]
fn nothing_is_lost_over_reloads_and_hand_overs() {
    let scale = Scale::of_this_run();
    let backends = ["a", "b", "c"].map(|name| crowd::backend(name, scale.slow));
    let (mut lb, targets) = started(&backends, &scale);
    let descriptors = lb.program.descriptors();
    let crowd = Crowd::start(&targets, scale.slow, Duration::from_millis(10));
    crowd.wait_for_more(100);
    let mut predecessors: Vec<Program> = Vec::new();
    let mut reloads = 0;
    for hand_over in 1..=scale.hand_overs {
        while reloads < scale.reloads * hand_over / scale.hand_overs {
            // The one that is not in the pools takes the place of the first or the second.
            let (gone, new) = [(0, 2), (1, 0), (2, 1)][reloads % 3];
            lb.edit(&backends[gone].entry(), &backends[new].entry());
            reload(&lb, reloads % 2 == 0);
            reloads += 1;
            crowd.wait_for_more(100);
        }
        predecessors.push(lb.hand_over());
        crowd.wait_for_more(100);
        let status = crate::support::get(&lb.extra(2), "/api/v1/status").json();
        assert_eq!(status["pid"], lb.program.pid());
    }
    let outcome = crowd.stop();
    let (kinds, refused) = (outcome.by_kind(), outcome.refused);
    println!("{reloads} reloads, {} hand-overs: {kinds:?}, {refused} sent again", scale.hand_overs);
    assert_eq!(outcome.failures, Vec::<String>::new());
    assert_eq!(kinds.len(), 10, "a kind got nothing: {kinds:?}");
    let seen = crowd::ids_at(&backends, scale.slow);
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let lost: Vec<_> = outcome.answered.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert!(lost.is_empty() && seen.len() == outcome.answered.len(), "{lost:?}");

    for predecessor in &mut predecessors {
        let status = predecessor.wait_for_exit(scale.drain_timeout + SOON).expect("it exits");
        assert_eq!(status.code(), Some(0));
        assert_eq!(predecessor.stderr.count("cut off"), 0);
    }
    assert_eq!(processes(&lb), 1);
    let back = || lb.program.descriptors() <= descriptors;
    assert!(within(SOON, back), "{} descriptors for {descriptors}", lb.program.descriptors());
}
