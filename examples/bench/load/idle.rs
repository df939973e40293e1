//! The memory of connections on which nothing happens.

use super::tasks::{connect_tls, runtime, trusting};
use crate::{Error, Outcome, measuring::processes::Process};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const CONNECTIONS: usize = 4_000;

/// By how many kB the memory of a process grows with each connection that had one request.
pub(crate) fn growth(
    process: &Process,
    address: SocketAddr,
    tls: bool,
    certificate: &str,
) -> Outcome<f64> {
    let connector = trusting(certificate)?;
    runtime()?.block_on(async {
        // What the first connections need once is not theirs.
        let mut first = Vec::new();
        let mut kept: Vec<Box<dyn Duplex>> = Vec::with_capacity(CONNECTIONS);
        for _ in 0..16 {
            first.push(open(address, tls, &connector).await?);
        }
        let before = process.memory()?;
        for _ in 0..CONNECTIONS {
            kept.push(open(address, tls, &connector).await?);
        }
        let grown = process.memory()?.saturating_sub(before);
        Ok::<_, Error>(grown as f64 / 1e3 / CONNECTIONS as f64)
    })
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection on which one request was answered.
async fn open(
    address: SocketAddr,
    tls: bool,
    connector: &tokio_rustls::TlsConnector,
) -> Outcome<Box<dyn Duplex>> {
    let mut connection: Box<dyn Duplex> = if tls {
        Box::new(connect_tls(address, connector).await?)
    } else {
        Box::new(TcpStream::connect(address).await?)
    };
    connection.write_all(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    connection.flush().await?;
    let mut answer = Vec::with_capacity(1024);
    // The body is all of one letter, and no head ends with it.
    while !answer.ends_with(b"xxxxxxxx") {
        if connection.read_buf(&mut answer).await? == 0 {
            return Err("the connection was closed instead of an answer".into());
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("not a 200".into());
    }
    Ok(connection)
}
