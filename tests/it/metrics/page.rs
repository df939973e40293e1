//! The page itself: that Prometheus takes it, and that the documentation has all that is on it.

use super::{ADMIN, Scrape, settled, with_admin};
use crate::support::{Authority, Client, Config, Lb, Origin, Raw, eventually, get};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A balancer that has had something of everything.
fn busy() -> Lb {
    let (a, raw) = (Origin::named("a"), Raw::named("raw"));
    let text = format!(
        "listeners:\n\
         \x20 web: {{ address: \"@WEB@\" }}\n\
         \x20 secure: {{ address: \"@3@\", tls: {{ certificates: [{{ cert: a.pem, key: a.key }}] }} }}\n\
         \x20 stream: {{ address: \"@4@\", protocol: tcp, pool: raw }}\n\
         pools:\n\
         \x20 app: {{ backends: [{}] }}\n\
         \x20 raw: {{ backends: [{}], health_check: off }}\n\
         routes:\n\
         \x20 - {{ match: {{ path: /no }}, filters: [{{ ip_filter: {{ deny: [0.0.0.0/0] }} }}], pool: app }}\n\
         \x20 - {{ pool: app }}\n\
         {ADMIN}",
        a.entry(),
        raw.entry(),
    );
    let certificate = Authority::new("authority").server(&["a.example"]);
    let lb = Config::new(text).access_log().certificate("a", &certificate).start();
    assert_eq!((lb.get("/").status, lb.get("/no").status), (200, 403));
    let client = Client::connect(&lb.extra(4));
    drop((raw.accept(), client));
    lb.wait_for_entries(3);
    lb
}

fn page(lb: &Lb) -> String {
    get(&lb.extra(2), "/metrics").text()
}

/// Runs `promtool`, with this on its standard input, and returns what it says; `None` where it is not
/// installed, which is said where nobody can overlook it.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        // Written past the test's captured output.
        let _ = writeln!(
            std::io::stderr(),
            "NOT CHECKED: promtool is not installed, which checks the metrics (Debian: prometheus)"
        );
        return None;
    };
    // It may have ended by now, with an error that its output tells.
    let _ = promtool.stdin.take().unwrap().write_all(input.as_bytes());
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    Some(said)
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    if let Some(said) = promtool(&["check", "metrics"], &page(&busy())) {
        assert_eq!(said.trim(), "");
    }
}

#[test]
fn the_example_of_alerts_is_valid_and_asks_for_what_there_is() {
    let path = Path::new(ROOT).join("conf/prometheus/alerts.yaml");
    promtool(&["check", "rules", path.to_str().unwrap()], "");
    let documented = documented();
    let text = fs::read_to_string(path).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<_> = words.filter(|word| word.starts_with("pingora_lb_")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let name = name.trim_end_matches("_bucket");
        assert!(
            documented.contains_key(name),
            "{name} in conf/prometheus/alerts.yaml is no metric"
        );
    }
}

/// The type and the labels of each metric.
type Kinds = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of docs/metrics.md: `name`, type, `labels`, and what it means.
fn documented() -> Kinds {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `p"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else { panic!("{line}") };
        assert!(meaning.len() > 10, "{line}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    };
    rows.map(row).collect()
}

fn shown(page: &str) -> Kinds {
    let mut kinds = Kinds::new();
    let mut last = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            name.clone_into(&mut last);
            let before = kinds.insert(last.clone(), (kind.to_owned(), BTreeSet::new()));
            assert_eq!(before, None, "{name} is there twice");
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            let labels = series.split_once('{').map_or("", |(_, labels)| labels);
            let names = labels.split("\",").filter_map(|label| label.split_once('='));
            let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
            kinds.get_mut(&last).unwrap().1.extend(names);
        }
    }
    kinds
}

#[test]
fn the_documentation_has_every_metric_with_its_type_and_labels() {
    assert_eq!(documented(), shown(&page(&busy())));
}

#[test]
fn the_process_tells_of_itself() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let scrape = Scrape::of(&lb);
    let own = |name: &str| scrape.0[&format!("process_{name}")];
    assert!(own("resident_memory_bytes") > 1e6);
    let descriptors = lb.program.descriptors() as f64;
    assert!((own("open_fds") - descriptors).abs() < 10.0, "{} {descriptors}", own("open_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - own("start_time_seconds");
    assert!((-2.0..600.0).contains(&age), "{age}");
    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(scrape.get(&version), Some(1.0));
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let a = Origin::named("a");
    let backends = [a.entry()];
    let lb = Config::pool(&backends, "health_check: off")
        .and(ADMIN)
        .and("access_log: { path: /dev/full, format: json }")
        .start();
    let name = "access_log_dropped_lines_total";
    settled(&lb);
    eventually("the probe's line is lost", || Scrape::of(&lb).get(name) == Some(1.0));
    for _ in 0..5 {
        assert_eq!(lb.get("/").status, 200);
    }
    eventually("all are lost", || Scrape::of(&lb).get(name) == Some(6.0));
}
