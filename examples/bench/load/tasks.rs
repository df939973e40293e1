//! Loads of our own: so many tasks that each do the same again and again.

use super::Answered;
use crate::{Outcome, origins::STREAM};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Has `count` tasks repeat until the time is over. Each says how long each of its pieces took.
fn repeat<T>(count: usize, length: Duration, task: impl Fn(Instant) -> T) -> Outcome<Answered>
where
    T: Future<Output = Outcome<Vec<Duration>>> + Send + 'static,
{
    let began = Instant::now();
    let times = runtime()?.block_on(async {
        let mut tasks: JoinSet<_> = (0..count).map(|_| task(began + length)).collect();
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            times.extend(done??);
        }
        Outcome::Ok(times)
    })?;
    Ok(Answered::of(times, began.elapsed()))
}

/// For each request a connection with a full handshake of TLS 1.3.
pub(crate) fn handshakes(
    address: SocketAddr,
    certificate: &str,
    length: Duration,
) -> Outcome<Answered> {
    let connector = trusting(certificate)?;
    repeat(16, length, |end| {
        let connector = connector.clone();
        async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                ask_over_tls(address, &connector).await?;
                times.push(began.elapsed());
            }
            Ok(times)
        }
    })
}

/// A client that trusts this certificate, and never resumes a session.
pub(crate) fn trusting(certificate: &str) -> Outcome<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

pub(crate) async fn connect_tls(
    address: SocketAddr,
    connector: &TlsConnector,
) -> Outcome<TlsStream<TcpStream>> {
    let connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from("localhost")?, connection).await?)
}

async fn ask_over_tls(address: SocketAddr, connector: &TlsConnector) -> Outcome<()> {
    let mut connection = connect_tls(address, connector).await?;
    let request = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    connection.write_all(request).await?;
    connection.flush().await?;
    let mut answer = Vec::with_capacity(1024);
    // Not all of them say goodbye, which rustls takes for a truncated answer. The body shows it.
    let _ = connection.read_to_end(&mut answer).await;
    if !answer.starts_with(b"HTTP/1.1 200 ") || !answer.ends_with(b"xxxxxxxx") {
        return Err("not a whole 200".into());
    }
    Ok(())
}

/// Eight connections that take what the origin sends; a piece of work is a MiB.
pub(crate) fn stream(address: SocketAddr, length: Duration) -> Outcome<Answered> {
    let mut answered = repeat(8, length, |end| async move {
        let (mut times, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while Instant::now() < end {
            let began = Instant::now();
            let mut connection = TcpStream::connect(address).await?;
            connection.write_u8(b'!').await?;
            let mut got = 0;
            while let read @ 1.. = connection.read(&mut piece).await? {
                got += read;
            }
            if got != STREAM {
                return Err(format!("{got} bytes instead of {STREAM}").into());
            }
            times.push(began.elapsed());
        }
        Ok(times)
    })?;
    answered.count *= (STREAM >> 20) as f64;
    Ok(answered)
}

/// 64 upgraded connections, each with a message under way.
pub(crate) fn echo(address: SocketAddr, length: Duration) -> Outcome<Answered> {
    repeat(64, length, |end| async move {
        let mut connection = upgraded(address).await?;
        let message = masked(&[b'x'; 64]);
        let (mut times, mut answer) = (Vec::new(), vec![0; message.len()]);
        while Instant::now() < end {
            let began = Instant::now();
            connection.write_all(&message).await?;
            connection.read_exact(&mut answer).await?;
            if answer != message {
                return Err("an echo of something else".into());
            }
            times.push(began.elapsed());
        }
        Ok(times)
    })
}

async fn upgraded(address: SocketAddr) -> Outcome<TcpStream> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    let request = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection.write_all(request).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err("the upgrade was refused".into());
    }
    Ok(connection)
}

/// A whole text message of less than 126 bytes from a client, with a mask of zeros.
fn masked(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    frame
}
