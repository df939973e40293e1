//! Servers without a protocol: a test takes each connection into its own hands.

use super::{
    SOON,
    address::{Address, Reserved},
    client::Client,
};
use socket2::Socket;
use std::{
    io, thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A listening socket and the connections that wait on it.
pub struct Raw {
    name: String,
    address: Address,
    listener: Socket,
    _port: Option<Reserved>,
    _directory: Option<TempDir>,
}

impl Raw {
    pub fn named(name: &str) -> Self {
        let port = Reserved::new();
        Self::at(name, port.address(), Some(port), None)
    }

    pub fn unix(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("raw.sock"));
        Self::at(name, address, None, Some(directory))
    }

    fn at(
        name: &str,
        address: Address,
        port: Option<Reserved>,
        directory: Option<TempDir>,
    ) -> Self {
        let listener = address.bind().unwrap();
        listener.listen(4096).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { name: name.to_owned(), address, listener, _port: port, _directory: directory }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// This server as an entry of `backends:`.
    pub fn entry(&self) -> String {
        format!("{{ address: \"{}\", name: {} }}", self.address, self.name)
    }

    /// The next connection, waiting for it.
    #[track_caller]
    pub fn accept(&self) -> Client {
        let accepted = self.accept_within(SOON);
        accepted.unwrap_or_else(|| panic!("no connection reached {}", self.name))
    }

    pub fn accept_within(&self, limit: Duration) -> Option<Client> {
        let deadline = Instant::now() + limit;
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false).unwrap();
                    return Some(Client::over(socket).unwrap());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{}: {error}", self.name),
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Whether no connection waits. What the balancer does not do cannot be waited for, so ask this
    /// after something that comes later.
    pub fn is_left_alone(&self) -> bool {
        self.accept_within(Duration::ZERO).is_none()
    }
}
