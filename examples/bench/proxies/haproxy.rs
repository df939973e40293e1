//! The same for `HAProxy`.

use super::{Extras, Front, Outcome, Task};
use std::fmt::Write as _;

const FIELDS: &str = "  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Real-IP %[src]
  http-response set-header X-Request-Id %[unique-id]
  http-response set-header X-Backend-Server %s
";

const FILTERS: &str = r#"  http-request deny if { src 203.0.113.0/24 }
  stick-table type ip size 100k expire 10s store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
  http-request replace-path ^/api(/.*)$ \1
  http-request set-header X-Env prod
  http-response set-header X-Frame-Options DENY
  log global
  log-format '{"time":"%tr","request":"%{+E}HM %{+E}HU","status":%ST,"bytes_in":%U,"bytes_out":%B,"duration_ms":%Ta,"connect_ms":%Tc,"upstream_ms":%Tr,"client_ip":"%ci","backend":"%b/%s","tries":%rc,"reason":"%ts","request_id":"%ID","protocol":"%HV"}'
"#;

pub(super) fn configuration(task: &Task<'_>) -> Outcome<String> {
    let filters = task.row.extras == Extras::Filters;
    let mode = if task.row.front == Front::Tcp { "tcp" } else { "http" };
    let mut text = format!("global\n  maxconn 9000\n  nbthread {}\n", task.row.threads);
    if filters {
        text.push_str("  log stdout format raw local0\n");
    }
    writeln!(
        text,
        "defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         timeout tunnel 60s"
    )?;
    if mode == "http" {
        text.push_str("  http-reuse always\n");
    }
    let (tls, http2) = task.front();
    let bind = match (tls, http2) {
        (false, false) => String::new(),
        (false, true) => " proto h2".into(),
        (true, _) => format!(
            " ssl crt {} ssl-min-ver TLSv1.3 alpn {}",
            task.certificate("both.pem"),
            if http2 { "h2,http/1.1" } else { "http/1.1" }
        ),
    };
    writeln!(text, "frontend web\n  bind {}{bind}\n  default_backend app", task.address)?;
    match task.row.extras {
        Extras::None => {}
        Extras::Fields => text.push_str(FIELDS),
        Extras::Filters => text.extend([FIELDS, FILTERS]),
        Extras::Reload => {
            writeln!(text, "  http-response set-header X-Generation {}", task.generation)?;
        }
    }
    text.push_str("backend app\n  balance roundrobin\n");
    let protocol = if task.backend_speaks_http2() { " proto h2" } else { "" };
    for (number, backend) in task.backends.iter().enumerate() {
        let check = if task.row.extras == Extras::Reload { "" } else { " check inter 5s" };
        writeln!(text, "  server s{number} {backend}{protocol}{check}")?;
    }
    Ok(text)
}
