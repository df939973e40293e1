//! The same for nginx.

use super::{Back, Extras, Front, Outcome, Task};
use std::{fmt::Write as _, path::Path};

/// Where Debian has the module for streams, unless nginx knows it by itself.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What ours writes into its access log, as near as nginx comes.
const LOG_FORMAT: &str = r#"log_format json escape=json '{"time":"$time_iso8601","method":"$request_method","host":"$host",
"path":"$request_uri","status":$status,"bytes_in":$request_length,"bytes_out":$body_bytes_sent,"duration":$request_time,
"upstream":"$upstream_response_time","connect":"$upstream_connect_time","client_ip":"$remote_addr","backend":"$upstream_addr",
"request_id":"$request_id","protocol":"$server_protocol","user_agent":"$http_user_agent","referer":"$http_referer"}';"#;

const FIELDS: &str = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Real-IP $remote_addr;\n\
    proxy_set_header X-Request-Id $request_id; proxy_set_header Host $http_host;\n\
    add_header X-Request-Id $request_id; add_header X-Backend-Server $upstream_addr;\n";

const FILTERS: &str = "deny 203.0.113.0/24; limit_req zone=clients burst=100000 nodelay;\n\
    rewrite ^/api(/.*)$ $1 break; proxy_set_header X-Env prod; add_header X-Frame-Options DENY;\n";

pub(super) fn configuration(task: &Task<'_>) -> Outcome<String> {
    let mut text = String::new();
    // One process is enough, unless there are to be several or a reload.
    let reloads = task.row.extras == Extras::Reload;
    let master = if task.row.threads > 1 || reloads { "on" } else { "off" };
    if task.row.front == Front::Tcp && Path::new(STREAM_MODULE).exists() {
        writeln!(text, "load_module {STREAM_MODULE};")?;
    }
    if nix::unistd::Uid::effective().is_root() {
        // Workers read certificates in a folder that only we may enter.
        text.push_str("user root root;\n");
    }
    writeln!(
        text,
        "worker_processes {}; daemon off; master_process {master}; pid {}; error_log {} error;\n\
         events {{ worker_connections 19000; }}",
        task.row.threads,
        task.path("nginx.pid"),
        task.path("error.log")
    )?;
    let section = if task.row.front == Front::Tcp { stream(task) } else { http(task)? };
    text.push_str(&section);
    Ok(text)
}

fn stream(task: &Task<'_>) -> String {
    format!(
        "stream {{ upstream app {{ server {}; }}\n\
         server {{ listen {} backlog=4096; proxy_pass app; }} }}\n",
        task.backends[0], task.address
    )
}

fn http(task: &Task<'_>) -> Outcome<String> {
    let (tls, http2) = task.front();
    let listen = format!(
        "listen {} backlog=4096{}{};",
        task.address,
        if tls { " ssl" } else { "" },
        if http2 { " http2" } else { "" }
    );
    let mut text = String::from("http {\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {};", task.path(kind))?;
    }
    if task.row.extras == Extras::Filters {
        writeln!(text, "{LOG_FORMAT}")?;
        writeln!(text, "access_log {} json buffer=64k flush=1s;", task.path("access.log"))?;
        text.push_str("limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;\n");
    } else {
        text.push_str("access_log off;\n");
    }
    text.push_str("upstream app {\n");
    for backend in &task.backends {
        writeln!(text, "server {backend};")?;
    }
    text.push_str("keepalive 512; keepalive_requests 1000000000; }\n");
    // What a client is slow to take waits in memory, not in a file: the others have no files either.
    write!(
        text,
        "keepalive_requests 1000000000; proxy_max_temp_file_size 0;\nserver {{ {listen}\n{}\n\
         location / {{ {} }} }} }}\n",
        certificates(task, tls),
        location(task)
    )?;
    Ok(text)
}

fn certificates(task: &Task<'_>, tls: bool) -> String {
    if !tls {
        return String::new();
    }
    format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
        task.certificate("cert.pem"),
        task.certificate("key.pem")
    )
}

fn location(task: &Task<'_>) -> String {
    let mut text = match task.row.back {
        Back::Grpc => return "grpc_pass grpc://app;".into(),
        Back::Echo => "proxy_set_header Upgrade $http_upgrade; \
            proxy_set_header Connection $http_connection;\n"
            .to_owned(),
        _ => "proxy_set_header Connection \"\";\n".to_owned(),
    };
    match task.row.extras {
        Extras::None => {}
        Extras::Fields => text.push_str(FIELDS),
        Extras::Filters => text.extend([FIELDS, FILTERS]),
        Extras::Reload => {
            text.extend(["add_header X-Generation ", &task.generation.to_string(), ";\n"]);
        }
    }
    text + "proxy_pass http://app; proxy_http_version 1.1;"
}
