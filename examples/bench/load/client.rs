//! A client that asks and waits, on one kept connection.

use crate::Outcome;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// It allocates for its first request only.
pub(crate) struct Client {
    address: SocketAddr,
    request: Vec<u8>,
    connection: Option<TcpStream>,
    answer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
        Self { address, request, connection: None, answer: Vec::new() }
    }

    /// Asks, and returns the answer's head once all of the answer is here.
    ///
    /// A kept connection may turn out to be closed: then, as any client does with a GET, it asks
    /// again on a new one.
    pub(crate) fn get(&mut self) -> Outcome<&str> {
        if self.connection.is_some() && self.ask().is_ok_and(|whole| whole) {
            return self.head();
        }
        self.reconnect()?;
        if !self.ask()? {
            return Err("the connection was closed instead of an answer".into());
        }
        self.head()
    }

    /// Leaves the connection, so that the next request gets another.
    pub(crate) fn leave(&mut self) {
        self.connection = None;
    }

    fn reconnect(&mut self) -> io::Result<()> {
        let connection = TcpStream::connect(self.address)?;
        connection.set_nodelay(true)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Whether there was an answer.
    fn ask(&mut self) -> io::Result<bool> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        connection.write_all(&self.request)?;
        self.answer.clear();
        let mut piece = [0; 4096];
        let mut length = None;
        while length.is_none_or(|length| self.answer.len() < length) {
            let read = connection.read(&mut piece)?;
            if read == 0 {
                return Ok(false);
            }
            self.answer.extend_from_slice(&piece[..read]);
            length = length.or_else(|| whole_length(&self.answer));
        }
        Ok(true)
    }

    fn head(&self) -> Outcome<&str> {
        let end = end_of_head(&self.answer).ok_or("an answer without an end of its head")?;
        let head = std::str::from_utf8(&self.answer[..end])?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(format!("not a 200:\n{head}").into());
        }
        Ok(head)
    }
}

fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// How long an answer is, once its head is here.
fn whole_length(answer: &[u8]) -> Option<usize> {
    const FIELD: &[u8] = b"content-length: ";
    let end = end_of_head(answer)?;
    let head = &answer[..end];
    let at = head.windows(FIELD.len()).position(|window| window.eq_ignore_ascii_case(FIELD))?;
    let digits = head[at + FIELD.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(end + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}
