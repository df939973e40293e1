//! Telling a service manager where the process stands, as systemd's `sd_notify(3)` does.
//!
//! The service manager says in the environment where it listens. What it is told are lines of a datagram:
//! that the process serves, that it reloads, that it ends. A successor says that it is the main process
//! from here on, so that the end of its predecessor is not taken for the end of the service.

use rustix::{
    net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with},
    time::{ClockId, clock_gettime},
};
use std::{env, ffi::OsStr, io, os::unix::ffi::OsStrExt};

/// Where the service manager listens.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Who is told; nobody where no service manager wants to be.
pub(super) struct Notifier(Option<SocketAddrUnix>);

impl Notifier {
    pub(super) fn from_environment() -> Self {
        let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        match address(&name) {
            Ok(address) => Self(Some(address)),
            Err(error) => {
                log::warn!("{VARIABLE} cannot be used: {error}");
                Self(None)
            }
        }
    }

    /// The process serves, and is the one to watch.
    pub(super) fn ready(&self) {
        self.tell(&format!("MAINPID={}\nREADY=1\n", std::process::id()));
    }

    /// The configuration is about to be read again.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    /// The reload is over, whatever came of it.
    pub(super) fn reloaded(&self) {
        self.tell("READY=1\n");
    }

    /// The process ends once its connections have.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// Never waits: a service manager that does not read is no reason to hold up traffic.
    fn tell(&self, message: &str) {
        let Some(address) = &self.0 else { return };
        if let Err(error) = send(address, message.as_bytes()) {
            log::warn!("the service manager cannot be told {:?}: {error}", message.trim_end());
        }
    }
}

/// A path, or with `@` in front a name in the kernel's own space of names.
fn address(name: &OsStr) -> io::Result<SocketAddrUnix> {
    Ok(match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    })
}

fn send(address: &SocketAddrUnix, message: &[u8]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sendto(&socket, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, address)?;
    Ok(())
}
