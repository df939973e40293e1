//! What may stand on the command line. The comments on the arguments are their help texts.
#![allow(clippy::doc_markdown, reason = "help texts are not Markdown")]

use super::{
    backend::BackendArguments, demo::DemoArguments, diff::DiffArguments, explain::ExplainArguments,
    operate::BackendChoice, top::TopArguments,
};
use crate::{
    config::{Quick, parse_duration},
    model::{BackendAddress, BalancePolicy, ListenAddress},
};
use clap::{Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

const EXAMPLES: &str = "\
Examples:
  pingora-lb demo                                   three backends and a balancer, at once
  pingora-lb --port 8080 --backends 127.0.0.1:9001,127.0.0.1:9002
  pingora-lb -c conf/lb.yaml -t                     check a configuration
  pingora-lb -c conf/lb.yaml -T                     the same, then print it with all defaults
  pingora-lb diff -c conf/lb.yaml                   what a reload of it would change in the running instance
  pingora-lb explain -c conf/lb.yaml POST http://a.example/x -H 'X-User: ada'
                                                    say what becomes of that request, and why
  pingora-lb -c conf/lb.yaml                        run in the foreground
  pingora-lb -c conf/lb.yaml -d                     run in the background
  pingora-lb drain app app-2                        take a backend of the running instance out
  pingora-lb top                                    watch the running instance
  pingora-lb -c conf/lb.yaml -d -u                  start a successor, then send QUIT to the old one

Signals:
  TERM  stop accepting, finish what is in flight, exit      INT   exit at once
  QUIT  hand over to an instance started with -u            HUP   reload the configuration, reopen log files
                                                            USR1  reopen log files";

/// A load balancer and programmable reverse proxy built on Pingora.
#[derive(Debug, Parser)]
#[command(name = "pingora-lb", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    /// Run with this configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(super) conf: Option<PathBuf>,

    /// Run in the background (see `server.pid_file` and `server.error_log`)
    #[arg(short, long)]
    pub(super) daemon: bool,

    /// Take over the listening sockets of the running instance; then send QUIT to that one
    #[arg(short, long, requires = "conf")]
    pub(super) upgrade: bool,

    /// Check the configuration, print every error, and exit
    #[arg(short, long, requires = "conf")]
    pub(super) test: bool,

    /// The same, then print the effective configuration: defaults filled in, secrets masked
    #[arg(short = 'T', long, requires = "conf")]
    pub(super) test_print: bool,

    /// Without a file: the port to listen on, on every IPv4 address
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    #[arg(conflicts_with = "conf", help_heading = WITHOUT_FILE)]
    port: u16,

    /// Without a file: the address to listen on, in the place of --port: ip:port, [ipv6]:port or
    /// unix:/path
    #[arg(long, value_name = "ADDRESS")]
    #[arg(conflicts_with_all = ["port", "conf"], help_heading = WITHOUT_FILE)]
    listen: Option<ListenAddress>,

    /// Without a file: the backends, separated by commas: host:port, http://host:port or unix:/path
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',', value_parser = backend)]
    #[arg(conflicts_with_all = ["conf", "test", "test_print", "upgrade"], help_heading = WITHOUT_FILE)]
    backends: Vec<BackendAddress>,

    /// Without a file: round_robin (roundrobin), random, least_connections (leastconn), p2c,
    /// peak_ewma, ring_hash or maglev; the last two by the client's address
    #[arg(long, value_name = "POLICY", default_value = "round_robin", value_parser = policy)]
    #[arg(conflicts_with = "conf", help_heading = WITHOUT_FILE)]
    algorithm: BalancePolicy,

    /// Without a file: the time between health checks
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    #[arg(conflicts_with = "conf", help_heading = WITHOUT_FILE)]
    health_interval: Duration,

    /// Without a file: the longest a health check may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    #[arg(conflicts_with = "conf", help_heading = WITHOUT_FILE)]
    health_timeout: Duration,

    /// Without a file: how often a request is tried again, each time on another backend
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=10))]
    #[arg(conflicts_with = "conf", help_heading = WITHOUT_FILE)]
    max_retries: u32,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

const WITHOUT_FILE: &str = "Without a configuration file";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start three built-in backends and a balancer in front of them, with nothing else needed
    Demo(DemoArguments),
    /// Start one built-in backend to try a balancer on
    Backend(BackendArguments),
    /// Say what becomes of a request, and why: its route, filters, pool, backend and retries
    Explain(ExplainArguments),
    /// Say what a reload of a file would change in the running instance, or how two files differ
    Diff(DiffArguments),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Give a backend of the running instance no new requests; sticky ones and those in flight go on
    Drain(BackendChoice),
    /// Have a backend of the running instance take requests again
    Enable(BackendChoice),
    /// Give a backend of the running instance no requests at all
    Disable(BackendChoice),
    /// Show the pools and backends of the running instance, live
    Top(TopArguments),
}

impl Arguments {
    /// The file-less form, if the backends are given.
    pub(super) fn quick(&self) -> Option<Quick> {
        if self.backends.is_empty() {
            return None;
        }
        let every_address = ListenAddress::Tcp(SocketAddr::from(([0, 0, 0, 0], self.port)));
        Some(Quick {
            listen: self.listen.clone().unwrap_or(every_address),
            backends: self.backends.clone(),
            algorithm: self.algorithm,
            health_interval: self.health_interval,
            health_timeout: self.health_timeout,
            max_retries: self.max_retries,
        })
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// A backend's address, also in the form of a URL without a path.
fn backend(text: &str) -> Result<BackendAddress, String> {
    let address = text.trim();
    let address =
        address.strip_prefix("http://").map_or(address, |rest| rest.trim_end_matches('/'));
    address.parse().map_err(|error: crate::model::AddressError| error.to_string())
}

/// A policy's name, also in the spellings that HAProxy and others use.
fn policy(text: &str) -> Result<BalancePolicy, String> {
    match text {
        "roundrobin" => Ok(BalancePolicy::RoundRobin),
        "leastconn" => Ok(BalancePolicy::LeastConnections),
        other => other.parse().map_err(|error: crate::model::UnknownPolicy| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn urls_and_aliases_are_understood() {
        assert_eq!(backend("http://127.0.0.1:9001/").unwrap().to_string(), "127.0.0.1:9001");
        assert_eq!(backend(" localhost:9001").unwrap().to_string(), "localhost:9001");
        assert!(backend("https://a:1").is_err());
        assert_eq!(policy("leastconn"), Ok(BalancePolicy::LeastConnections));
        assert_eq!(policy("roundrobin"), Ok(BalancePolicy::RoundRobin));
        for known in BalancePolicy::ALL {
            assert_eq!(policy(known.as_str()), Ok(known));
        }
        assert!(policy("fastest").is_err());
    }
}
