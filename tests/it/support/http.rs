//! HTTP/1 messages as they are on the wire, read without judgement.

use std::io::{self, Read};

/// Bodies are kept up to this; longer ones are counted only.
pub const KEPT_BODY: usize = 1 << 20;

/// Header fields in order, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The value of the only field of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} occurs {} times: {self:?}", values.len());
        values.first().copied()
    }

    /// The values of all fields of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether a comma-separated field contains `token`.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|listed| listed.trim().eq_ignore_ascii_case(token))
    }

    fn length(&self) -> Option<u64> {
        self.all("content-length").first()?.trim().parse().ok()
    }

    fn chunked(&self) -> bool {
        self.lists("transfer-encoding", "chunked")
    }
}

/// A request as it reached an origin.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The PROXY header that its connection began with.
    pub preamble: Vec<u8>,
    /// The head's bytes, the empty line included.
    pub raw_head: Vec<u8>,
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Fields,
    /// The body's first [`KEPT_BODY`] bytes, without chunk framing.
    pub body: Vec<u8>,
    /// The body's whole length.
    pub body_length: u64,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A response as it reached a client.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub headers: Fields,
    /// The body's first [`KEPT_BODY`] bytes, without chunk framing.
    pub body: Vec<u8>,
    /// The body's whole length.
    pub body_length: u64,
    /// Whether the body came to the end its framing announced.
    pub complete: bool,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The backend that answered, as `X-Backend-Server` says.
    pub fn backend(&self) -> String {
        self.headers.get("x-backend-server").unwrap_or("(none)").to_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Framing {
    pub fn of_request(headers: &Fields) -> Self {
        if headers.chunked() { Self::Chunked } else { Self::Length(headers.length().unwrap_or(0)) }
    }

    pub fn of_response(headers: &Fields, status: u16, to_head: bool) -> Self {
        if to_head || status < 200 || status == 204 || status == 304 {
            Self::Length(0)
        } else if headers.chunked() {
            Self::Chunked
        } else {
            headers.length().map_or(Self::Close, Self::Length)
        }
    }
}

/// A stream with what has been read from it but not used.
pub struct Incoming<R> {
    pub stream: R,
    buffer: Vec<u8>,
    used: usize,
}

impl<R: Read> Incoming<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), used: 0 }
    }

    /// What is at hand without reading, at most `limit` bytes; reads if there is nothing. Empty
    /// means the end of the stream.
    fn piece(&mut self, limit: usize) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() && !self.fill()? {
            return Ok(&[]);
        }
        let from = self.used;
        self.used = self.buffer.len().min(from + limit);
        Ok(&self.buffer[from..self.used])
    }

    /// Reads once; false at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + 64 * 1024, 0);
        let read = self.stream.read(&mut self.buffer[kept..]);
        self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
        read.map(|length| length > 0)
    }

    /// Everything up to and including `mark`; `None` when the stream ends first with nothing in
    /// hand, an error when it ends in the middle.
    fn until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let unused = &self.buffer[self.used..];
            if let Some(at) = memchr::memmem::find(unused, mark) {
                let found = unused[..at + mark.len()].to_vec();
                self.used += found.len();
                return Ok(Some(found));
            }
            if !self.fill()? {
                return if self.buffer.len() == self.used {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next bytes of the stream, whatever they are; empty at its end.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        self.piece(usize::MAX / 2).map(<[u8]>::to_vec)
    }

    /// Exactly `length` bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let piece = self.piece(length - bytes.len())?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(piece);
        }
        Ok(bytes)
    }

    /// Everything to the end of the stream, a reset counting as its end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(piece) = self.some() {
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(&piece);
        }
        all
    }

    /// A header of the PROXY protocol, version 1 or 2. An error if there is none.
    pub fn proxy_header(&mut self) -> io::Result<Vec<u8>> {
        let mut header = self.exactly(1)?;
        match header[0] {
            b'P' => header.extend(self.until(b"\r\n")?.ok_or(io::ErrorKind::UnexpectedEof)?),
            b'\r' => {
                header.extend(self.exactly(15)?);
                let length = u16::from_be_bytes([header[14], header[15]]);
                header.extend(self.exactly(usize::from(length))?);
            }
            _ => return Err(io::Error::other("no PROXY header")),
        }
        Ok(header)
    }

    /// A head: its bytes, the words of its first line, its fields.
    #[allow(clippy::type_complexity)] // Three parts of one thing, taken apart by both callers.
    fn head(&mut self) -> io::Result<Option<(Vec<u8>, [String; 3], Fields)>> {
        let Some(raw) = self.until(b"\r\n\r\n")? else { return Ok(None) };
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let first = [word(), word(), word()];
        let fields = lines
            .map(|line| line.split_once(':').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Some((raw, first, Fields(fields))))
    }

    /// A request's head; `None` when the client is done.
    pub fn request_head(&mut self) -> io::Result<Option<Request>> {
        Ok(self.head()?.map(|(raw_head, [method, target, version], headers)| Request {
            raw_head,
            method,
            target,
            version,
            headers,
            ..Request::default()
        }))
    }

    /// A response's head, interim ones included.
    pub fn response_head(&mut self) -> io::Result<Response> {
        let Some((_, [version, status, _], headers)) = self.head()? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let status = status.parse().map_err(|_| io::Error::other("no status in a response"))?;
        Ok(Response { version, status, headers, ..Response::default() })
    }

    /// Reads a body and gives its pieces to `take`. Whether it ended as announced; breaking off,
    /// by the end of the stream or a reset, is not an error here, a timeout is.
    pub fn body(&mut self, framing: Framing, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let result = match framing {
            Framing::Length(length) => self.counted(length, take),
            Framing::Chunked => self.chunks(take),
            Framing::Close => loop {
                match self.piece(usize::MAX / 2)? {
                    [] => break Ok(true),
                    piece => take(piece),
                }
            },
        };
        match result {
            Err(error) if broke_off(&error) => Ok(false),
            other => other,
        }
    }

    fn counted(&mut self, length: u64, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let mut left = length;
        while left > 0 {
            let piece = self.piece(usize::try_from(left).unwrap_or(usize::MAX / 2))?;
            if piece.is_empty() {
                return Ok(false);
            }
            take(piece);
            left -= piece.len() as u64;
        }
        Ok(true)
    }

    fn chunks(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        loop {
            let Some(line) = self.until(b"\r\n")? else { return Ok(false) };
            let digits = String::from_utf8_lossy(&line);
            let digits = digits.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| io::Error::other(format!("chunk size {digits:?}")))?;
            if size == 0 {
                return self.trailers();
            }
            if !self.counted(size, take)? || self.exactly(2)? != b"\r\n" {
                return Ok(false);
            }
        }
    }

    fn trailers(&mut self) -> io::Result<bool> {
        loop {
            match self.until(b"\r\n")? {
                None => return Ok(false),
                Some(line) if line == b"\r\n" => return Ok(true),
                Some(_) => {}
            }
        }
    }
}

/// Whether the other side ended the stream, cleanly or not.
pub fn broke_off(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}
