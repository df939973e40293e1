//! What the proxies stand before: nginx for HTTP/1, small servers of our own for the rest.

use crate::{
    Outcome,
    measuring::processes::{Process, free_address, wait_for},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use std::{fmt::Write as _, fs, io, net::SocketAddr, path::Path, thread};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How much a connection to the origin of streams brings.
pub(crate) const STREAM: usize = 16 << 20;
/// The body of the small answer.
const SMALL: usize = 131;

/// Where they are.
pub(crate) struct Origins {
    _nginx: Process,
    /// HTTP/1. It listens on every loopback address.
    pub(crate) http1: SocketAddr,
    /// HTTP/2 by prior knowledge, gRPC among it.
    pub(crate) http2: SocketAddr,
    /// Sends [`STREAM`] bytes for the first that it gets.
    pub(crate) stream: SocketAddr,
    /// Upgrades to a WebSocket and echoes.
    pub(crate) echo: SocketAddr,
}

/// Starts them on the processors of this thread.
pub(crate) fn start(folder: &Path) -> Outcome<Origins> {
    let http1 = free_address()?;
    let nginx = start_nginx(folder, http1)?;
    let [http2, stream, echo] = start_ours()?;
    Ok(Origins { _nginx: nginx, http1, http2, stream, echo })
}

fn start_nginx(folder: &Path, address: SocketAddr) -> Outcome<Process> {
    fs::write(folder.join("10k"), vec![b'x'; 10 << 10])?;
    fs::write(folder.join("1m"), vec![b'x'; 1 << 20])?;
    let body = "x".repeat(SMALL);
    let at = folder.display();
    let mut text = String::new();
    write!(
        text,
        "worker_processes 1; daemon off; master_process off; pid {at}/origin.pid;\n\
         error_log {at}/origin.log; events {{ worker_connections 20000; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         client_body_temp_path {at}/origin-body; sendfile on; default_type text/plain;\n\
         server {{ listen 0.0.0.0:{} backlog=4096 reuseport; root {at};\n\
         location /small {{ return 200 {body}; }} location /post {{ return 200 {body}; }} }} }}\n",
        address.port()
    )?;
    let path = folder.join("origin.conf");
    fs::write(&path, text)?;
    let error_log = format!("{at}/origin.log");
    let args = ["-e", &error_log, "-c", &path.to_string_lossy()];
    let process = Process::start("nginx", &args)?;
    wait_for(address)?;
    Ok(process)
}

/// The others share a thread, for as long as this process lives.
fn start_ours() -> io::Result<[SocketAddr; 3]> {
    let listen = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        io::Result::Ok((listener.local_addr()?, listener))
    };
    let (http2, stream, echo) = (listen()?, listen()?, listen()?);
    let addresses = [http2.0, stream.0, echo.0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let accept = |listener| TcpListener::from_std(listener);
            let all = (accept(http2.1), accept(stream.1), accept(echo.1));
            let (Ok(http2), Ok(stream), Ok(echo)) = all else { return };
            tokio::join!(
                accept_all(http2, serve_http2),
                accept_all(stream, serve_stream),
                accept_all(echo, serve_echo)
            );
        });
    });
    Ok(addresses)
}

async fn accept_all<S>(listener: TcpListener, serve: fn(TcpStream) -> S)
where
    S: Future<Output = Outcome<()>> + Send + 'static,
{
    loop {
        // Should accepting fail, the clients see it.
        let Ok((connection, _)) = listener.accept().await else { continue };
        let _ = connection.set_nodelay(true);
        tokio::spawn(serve(connection));
    }
}

async fn serve_http2(connection: TcpStream) -> Outcome<()> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(1_000)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .handshake(connection)
        .await?;
    while let Some(stream) = connection.accept().await {
        let (request, answer) = stream?;
        tokio::spawn(answer_http2(request, answer));
    }
    Ok(())
}

async fn answer_http2(
    request: http::Request<h2::RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
) -> Outcome<()> {
    static BODY: [u8; SMALL] = [b'x'; SMALL];
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut body = request.into_body();
    let mut said = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        said.extend_from_slice(&piece);
    }
    if content_type.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let head = Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(())?;
        let mut sending = answer.send_response(head, false)?;
        sending.send_data(said.into(), false)?;
        let ok = ("grpc-status".parse()?, HeaderValue::from_static("0"));
        sending.send_trailers(HeaderMap::from_iter([ok]))?;
    } else {
        let head = Response::builder().header(header::CONTENT_LENGTH, SMALL).body(())?;
        answer.send_response(head, false)?.send_data(Bytes::from_static(&BODY), true)?;
    }
    Ok(())
}

async fn serve_stream(mut connection: TcpStream) -> Outcome<()> {
    static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
    connection.read_u8().await?;
    for _ in 0..STREAM / PIECE.len() {
        connection.write_all(&PIECE).await?;
    }
    connection.shutdown().await?;
    Ok(())
}

/// The answer to the key of RFC 6455's example, which the client sends; then whatever it says again.
async fn serve_echo(mut connection: TcpStream) -> Outcome<()> {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut said).await? == 0 {
            return Ok(());
        }
    }
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    connection.write_all(answer).await?;
    let mut piece = [0; 4096];
    loop {
        match connection.read(&mut piece).await? {
            0 => return Ok(()),
            read => connection.write_all(&piece[..read]).await?,
        }
    }
}
