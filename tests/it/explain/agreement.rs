//! What is explained is what happens, for requests and routes that nobody chose.

use crate::support::{Config, Lb, Origin, Reply, request};
use pingora_lb::{
    App, config,
    explain::{Description, Explanation},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

const REQUESTS: usize = 1_000;
const HOSTS: [&str; 5] = ["a.example", "b.example", "x.a.example", "y.x.a.example", "c.test"];
const PATTERNS: [&str; 5] = ["a.example", "b.example", "'*.a.example'", "'*.example'", "c.test"];
const PATHS: [&str; 10] =
    ["/", "/v1", "/v1/", "/v1/x", "/v10", "/v1/../v2", "/users/12", "/users/x", "/%7Ev1", "/v2/y"];
const PATH_CONDITIONS: [&str; 7] = [
    "path: /v1",
    "path: /v1/x",
    "path_prefix: /v1",
    "path_prefix: /v2",
    "path_prefix: /",
    "path_regex: '^/users/[0-9]+$'",
    "path_regex: 'x$'",
];
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "OPTIONS"];
const VALUES: [&str; 4] = ["1", "2", "one", "21"];
const VALUE_CONDITIONS: [&str; 5] =
    ["'1'", "one", "{ regex: '^[0-9]+$' }", "{ present: true }", "{ present: false }"];

fn one<T: Copy>(rng: &mut SmallRng, from: &[T]) -> T {
    *from.choose(rng).expect("there are some")
}

/// A route with conditions that now and then hold, and one of the actions.
fn route(number: usize, rng: &mut SmallRng) -> String {
    let mut conditions = Vec::new();
    if rng.random_bool(0.5) {
        conditions.push(format!("host: [{}, {}]", one(rng, &PATTERNS), one(rng, &PATTERNS)));
    }
    if rng.random_bool(0.6) {
        conditions.push(one(rng, &PATH_CONDITIONS).to_owned());
    }
    if rng.random_bool(0.3) {
        conditions.push(format!("methods: [{}]", one(rng, &METHODS)));
    }
    if rng.random_bool(0.3) {
        conditions.push(format!("headers: {{ x-a: {} }}", one(rng, &VALUE_CONDITIONS)));
    }
    if rng.random_bool(0.3) {
        conditions.push(format!("query: {{ q: {} }}", one(rng, &VALUE_CONDITIONS)));
    }
    let action = match rng.random_range(0..6) {
        0 => "redirect: { to: 'https://to.example${path_and_query}', status: 308 }",
        1 => "respond: { status: 299 }",
        2 => "split: { first: 1, second: 2 }",
        3 => {
            "pool: first, filters: [ip_filter: { deny: [10.0.0.0/8] }, rewrite: { strip_prefix: /v1 }]"
        }
        _ => one(rng, &["pool: first", "pool: second"]),
    };
    format!("  - {{ name: r{number}, match: {{ {} }}, {action} }}\n", conditions.join(", "))
}

/// A request, as it is described and as it is sent.
fn described(rng: &mut SmallRng) -> Description {
    let mut url = format!("http://{}{}", one(rng, &HOSTS), one(rng, &PATHS));
    if rng.random_bool(0.4) {
        url.extend(["?q=", one(rng, &VALUES)]);
    }
    let mut headers = Vec::new();
    if rng.random_bool(0.4) {
        headers.push(("x-a".to_owned(), one(rng, &VALUES).to_owned()));
    }
    if rng.random_bool(0.2) {
        // We come from a trusted proxy, so this is the client.
        headers
            .push(("X-Forwarded-For".to_owned(), one(rng, &["10.1.1.1", "192.0.2.1"]).to_owned()));
    }
    let method = one(rng, &METHODS).to_owned();
    Description { method, url, headers, client: None, listener: None }
}

fn sent(description: &Description) -> Vec<u8> {
    let (host, path) = description.url["http://".len()..].split_once('/').unwrap();
    let host = format!("Host: {host}");
    let fields = description.headers.iter().map(|(name, value)| format!("{name}: {value}"));
    let fields: Vec<String> = std::iter::once(host).chain(fields).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    request(&description.method, &format!("/{path}"), &fields, b"")
}

/// What is to be seen from outside: the status, where a redirect leads, the backend.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    location: Option<String>,
    backend: Option<String>,
    /// The target that the backend saw.
    target: Option<String>,
}

fn foretold(explanation: &Explanation) -> Seen {
    let backend = explanation.pick.clone();
    let answer = explanation.answer.as_ref();
    Seen {
        status: answer.and_then(|answer| answer.status).unwrap_or(200),
        location: answer.and_then(|answer| answer.location.clone()),
        target: backend.is_some().then(|| explanation.request.target.clone()),
        backend,
    }
}

/// Two pools whose picks follow from the request alone, behind as many routes of chance.
fn start(rng: &mut SmallRng, origins: &[Origin]) -> Lb {
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    let backends = backends.join(", ");
    let balance = |policy: &str| format!("balance: {{ policy: {policy}, hash_on: uri }}");
    let (first, second) = (balance("maglev"), balance("ring_hash"));
    let routes: String = (0..30).map(|number| route(number, rng)).collect();
    Config::new(format!(
        "trusted_proxies: [127.0.0.1/32]\n\
         pools:\n  first: {{ backends: [{backends}], {first} }}\n  second: {{ backends: [{backends}], {second} }}\n\
         routes:\n{routes}"
    ))
    .access_log()
    .start()
}

#[test]
fn what_is_explained_is_what_happens() {
    let seed = 20_261_120;
    let mut rng = SmallRng::seed_from_u64(seed);
    let origins = [Origin::named("a"), Origin::named("b"), Origin::named("c")];
    for origin in &origins {
        origin.script(|asked| Reply::text("").with("x-target", &asked.target));
    }
    let lb = start(&mut rng, &origins);
    let app = App::new();
    let checked = config::load(lb.path(), app.filters()).unwrap();
    let already = lb.entries().len();
    let mut client = lb.client();
    let (mut routes, mut split) = (Vec::new(), 0);
    for number in 0..REQUESTS {
        let description = described(&mut rng);
        let explanation = app.explain(checked.clone(), &description).unwrap();
        let response = client.ask(sent(&description));
        let text = |name: &str| response.headers.get(name).map(str::to_owned);
        let seen = Seen {
            status: response.status,
            location: text("location"),
            backend: text("x-backend-server"),
            target: text("x-target"),
        };
        let mut expected = foretold(&explanation);
        if !explanation.split.is_empty() {
            // Chance has come to one pool or the other, and their policies differ.
            split += 1;
            expected.backend.clone_from(&seen.backend);
        }
        assert_eq!(seen, expected, "seed {seed}, request {number}: {description:?}\n{explanation}");
        routes.push(explanation.route.unwrap_or_default());
        if response.headers.lists("connection", "close") {
            client = lb.client();
        }
    }
    let entries = lb.wait_for_entries(already + REQUESTS);
    let logged =
        entries[already..].iter().map(|entry| entry["route"].as_str().unwrap_or("").to_owned());
    assert_eq!(routes, logged.collect::<Vec<_>>());
    // The requests came to most of what there is.
    let distinct: std::collections::BTreeSet<_> = routes.iter().collect();
    assert!(distinct.len() >= 10 && split > 10, "{distinct:?}, {split} splits");
}
