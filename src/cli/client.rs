//! Talking to the admin API of a running instance.
#![allow(clippy::doc_markdown, reason = "help texts are not Markdown")]

use crate::model::BackendAddress;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: a reload waits for health checks.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The longest answer, in bytes.
const LONGEST: usize = 64 * 1024 * 1024;

/// Where the running instance is, for the commands that talk to one.
#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// The admin API of the running instance: ip:port, host:port or unix:/path
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    admin: BackendAddress,

    /// Its token; without this, the one in the environment variable LB_ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl AdminArguments {
    /// A client of that instance.
    pub(super) fn client(&self) -> Client {
        let from_environment = || std::env::var("LB_ADMIN_TOKEN").ok();
        let token = self.token.clone().or_else(from_environment).filter(|token| !token.is_empty());
        Client { address: self.admin.clone(), token }
    }
}

/// A client of the admin API.
pub(super) struct Client {
    address: BackendAddress,
    token: Option<String>,
}

impl Client {
    /// Sends a request and returns the JSON that comes back.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal, in words for people.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (status, body) = runtime
            .block_on(self.exchange(method, path, body))
            .map_err(|error| format!("the admin API at {}: {error}", self.address))?;
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() { Ok(value) } else { Err(self.refusal(status, &value)) }
    }

    fn refusal(&self, status: StatusCode, answer: &Value) -> String {
        if status == StatusCode::UNAUTHORIZED {
            let why = if self.token.is_some() { "another" } else { "a" };
            return format!(
                "the admin API at {} wants {why} token: give it with --token or in LB_ADMIN_TOKEN",
                self.address
            );
        }
        let message = answer["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        let errors = answer["errors"].as_array().into_iter().flatten();
        errors.fold(message, |text, error| {
            let of = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            let separator = if of("path").is_empty() { "" } else { ": " };
            format!("{text}\n{}{separator}{}", of("path"), of("message"))
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<(StatusCode, Bytes)> {
        let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect());
        let (stream, host) = connecting.await.map_err(late("no connection in time"))??;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::from(body)).map_err(io::Error::other)?;
        let answering = tokio::time::timeout(TIMEOUT, answer(stream, request));
        answering.await.map_err(late("no answer in time"))?
    }

    /// A connection, and the name by which the other side knows itself.
    async fn connect(&self) -> io::Result<(Box<dyn Stream>, String)> {
        let explained = |error: io::Error| {
            let hint = "is it running, with `admin` in its configuration, and is this the address (--admin)?";
            io::Error::new(error.kind(), format!("cannot connect: {error}; {hint}"))
        };
        let address = match &self.address {
            BackendAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(explained)?;
                return Ok((Box::new(stream), "localhost".to_owned()));
            }
            other => other.to_string(),
        };
        let stream = TcpStream::connect(address).await.map_err(explained)?;
        // It may not know the host name that we were given.
        let host = stream.peer_addr()?.to_string();
        Ok((Box::new(stream), host))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn answer(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, Bytes)> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    Ok((status, body.map_err(io::Error::other)?.to_bytes()))
}

/// A name as a part of a path.
pub(super) fn part(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
