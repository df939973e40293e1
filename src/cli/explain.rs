//! `explain`: what becomes of a request, and why. The comments on the arguments are their help texts.
#![allow(clippy::doc_markdown, reason = "help texts are not Markdown")]

use super::{App, client::AdminArguments, print};
use crate::explain::{Description, Explanation};
use clap::{Args, error::ErrorKind};
use http::Method;
use std::{net::IpAddr, path::PathBuf};

/// What `explain` is told.
#[derive(Debug, Args)]
#[command(override_usage = "pingora-lb explain [OPTIONS] [METHOD] URL")]
pub(super) struct ExplainArguments {
    /// Explain with this configuration file, after a fresh start; without it, the running instance is
    /// asked
    #[arg(short, long, value_name = "FILE")]
    conf: Option<PathBuf>,

    /// The method, GET by default, and the URL: http://host/path, https://host/path, tcp://listener
    /// or tcp://listener/server.name
    #[arg(required = true, num_args = 1..=2, value_names = ["METHOD", "URL"])]
    request: Vec<String>,

    /// A header field of the request; may be given more than once
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// The client's address [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,

    /// The listener that the request arrives on [default: the first that fits the URL]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ExplainArguments {
    pub(super) fn run(&self, app: &App) -> Result<(), String> {
        let description = self.description();
        if let Err(error) = description.check() {
            super::usage_error("explain", ErrorKind::ValueValidation, error)
        }
        let explanation = match &self.conf {
            Some(file) => {
                let checked = app.load(file)?;
                app.explain(checked, &description).map_err(|error| error.to_string())?
            }
            None => self.ask(&description)?,
        };
        if self.json {
            let json = serde_json::to_string_pretty(&explanation);
            return print(&format!("{}\n", json.map_err(|error| error.to_string())?));
        }
        print(&explanation.to_string())
    }

    /// Asks the running instance.
    fn ask(&self, description: &Description) -> Result<Explanation, String> {
        let asked = serde_json::to_value(description).map_err(|error| error.to_string())?;
        let answer = self.admin.client().ask(Method::POST, "/api/v1/explain", Some(&asked))?;
        serde_json::from_value(answer)
            .map_err(|error| format!("the running instance answers otherwise: {error}"))
    }

    fn description(&self) -> Description {
        let (method, url) = match self.request.as_slice() {
            [method, url] => (method.clone(), url.clone()),
            [url] => ("GET".to_owned(), url.clone()),
            _ => unreachable!("clap asks for one or two"),
        };
        let (headers, listener) = (self.headers.clone(), self.listener.clone());
        Description { method, url, headers, client: self.client, listener }
    }
}
