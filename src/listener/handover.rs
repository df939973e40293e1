//! Handing the listening sockets to a successor without closing them.
//!
//! Pingora's own exchange ends five seconds after the sockets were sent, whether or not the
//! successor lives, and carries at most 32. Ours waits for the successor to say that it serves, and
//! carries any number, one a message:
//!
//! ```text
//! predecessor                      successor
//!                                  listens on upgrade_sock, mode 0600
//!                                  checks its backends
//! connects; each checks that the other runs as the same user or root
//! address + socket, for each --->
//! "end"                      --->
//!                                  accepts on the sockets
//!                            <---  "serving"
//! stops accepting, drains
//! ```
//!
//! A predecessor that does not get its last message goes on serving.

use crate::model::ListenAddress;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, sockopt,
    },
    process::{PidfdFlags, pidfd_open},
};
use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, lchown},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const END: &[u8] = b"end";
const SERVING: &[u8] = b"serving";
/// The longest a predecessor waits for its successor to serve, and either for a single message.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest message: an address.
const MAX_MESSAGE: usize = 512;

fn problem(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Whoever is at the other end gets our sockets or gives us theirs: it must be us, or root.
fn check_user(peer: &impl AsFd) -> io::Result<()> {
    let user = sockopt::socket_peercred(peer)?.uid;
    if user.is_root() || user == rustix::process::geteuid() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other process is another user's"))
}

/// Sends the sockets to the successor that listens at `path`, and returns when it serves. Each copy is
/// closed once it is sent: while one is open, the kernel goes on accepting.
///
/// # Errors
/// When there is none, or it does not say that it serves; its copies of the sockets are then gone.
pub fn hand_over(path: &Path, sockets: Vec<(ListenAddress, OwnedFd)>) -> io::Result<()> {
    let peer = socket()?;
    sockopt::set_socket_timeout(&peer, sockopt::Timeout::Recv, Some(PATIENCE))?;
    sockopt::set_socket_timeout(&peer, sockopt::Timeout::Send, Some(PATIENCE))?;
    net::connect(&peer, &SocketAddrUnix::new(path)?)?;
    check_user(&peer)?;
    for (address, listening) in sockets {
        send(&peer, address.to_string().as_bytes(), Some(&listening))?;
    }
    send(&peer, END, None)?;
    match receive(&peer)? {
        (message, _) if message == SERVING => Ok(()),
        _ => Err(problem("the successor gave up")),
    }
}

fn send(peer: &OwnedFd, message: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(AsFd::as_fd);
    if let Some(descriptor) = &descriptors {
        let rights = SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor));
        if !ancillary.push(rights) {
            return Err(problem("no room for a descriptor"));
        }
    }
    net::sendmsg(peer, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One message and the descriptor that came with it. An empty message is the end of the connection.
fn receive(peer: &OwnedFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let received = net::recvmsg(peer, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = part {
            descriptor = rights.next();
        }
    }
    message.truncate(received.bytes);
    Ok((message, descriptor))
}

/// An instance that waits to take over. Dropping it removes its socket's file.
pub struct Successor {
    listening: OwnedFd,
    file: SocketFile,
}

/// The file of a successor's socket.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Its device and inode, by which it is told from the file of a later successor.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), identity: identity(path)? })
    }

    /// Removes the file if it is still there. Where that is not allowed, a leftover is replaced by
    /// the next successor.
    pub fn remove(&self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes room for a socket in the place of an earlier successor's, and of nothing else.
fn remove_left_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            let what = "there is a file that is not a socket";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// The account that a process is going to run as, where that is another one than now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// The user's id.
    pub user: Option<u32>,
    /// The group's id.
    pub group: Option<u32>,
}

/// The instance that handed its sockets over and waits to hear that they serve.
pub struct Predecessor {
    peer: OwnedFd,
    /// Readable once its process has ended; `None` if that had happened before, or the kernel is old.
    process: Option<OwnedFd>,
}

impl Successor {
    /// Listens for the running instance at `path`, in the place of a successor that is gone. The
    /// socket belongs to `account`, as both instances will run as that. A running instance that is
    /// told to hand over from here on waits for [`Successor::receive`].
    ///
    /// # Errors
    /// When `path` cannot be bound or given away.
    pub fn listen(path: &Path, account: Account) -> io::Result<Self> {
        let listening = socket()?;
        remove_left_socket(path)?;
        // The file gets the mode of the socket. It is not changed by its path afterwards, nor is a
        // link followed: the folder may be another user's, who could put another file there.
        fchmod(&listening, Mode::RUSR | Mode::WUSR)?;
        net::bind(&listening, &SocketAddrUnix::new(path)?)?;
        let successor = Self { listening, file: SocketFile::at(path)? };
        if account.user.is_some() || account.group.is_some() {
            lchown(path, account.user, account.group)?;
        }
        net::listen(&successor.listening, 1)?;
        Ok(successor)
    }

    /// The file of its socket.
    pub fn file(&self) -> &SocketFile {
        &self.file
    }

    /// Waits for the running instance and receives its sockets.
    ///
    /// # Errors
    /// When nobody comes within `patience`, or what comes is not a predecessor.
    pub fn receive(
        self,
        patience: Duration,
    ) -> io::Result<(Vec<(ListenAddress, OwnedFd)>, Predecessor)> {
        let peer = self.accept(patience)?;
        check_user(&peer)?;
        sockopt::set_socket_timeout(&peer, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let mut sockets = Vec::new();
        loop {
            match receive(&peer)? {
                (message, None) if message == END => return Ok((sockets, Predecessor::at(peer)?)),
                (message, Some(socket)) => sockets.push((address(&message)?, socket)),
                _ => return Err(problem("the running instance broke off")),
            }
        }
    }

    fn accept(&self, patience: Duration) -> io::Result<OwnedFd> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = "the running instance did not hand over in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            sockopt::set_socket_timeout(&self.listening, sockopt::Timeout::Recv, Some(left))?;
            match net::accept_with(&self.listening, SocketFlags::CLOEXEC) {
                Ok(peer) => return Ok(peer),
                Err(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.file.remove();
    }
}

impl Predecessor {
    fn at(peer: OwnedFd) -> io::Result<Self> {
        let pid = sockopt::socket_peercred(&peer)?.pid;
        Ok(Self { peer, process: pidfd_open(pid, PidfdFlags::empty()).ok() })
    }

    /// Whether it does not wait to hear that we serve, but lives: it has lost patience with us, and
    /// serves on.
    pub fn has_given_up(&self) -> bool {
        let lives = |process: &OwnedFd| !is_readable(process);
        is_readable(&self.peer) && self.process.as_ref().is_some_and(lives)
    }

    /// Tells the predecessor that we serve.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ready(self) -> io::Result<()> {
        send(&self.peer, SERVING, None)
    }
}

/// Whether there is something to read or to hear of `descriptor`, such as its end.
fn is_readable(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn address(message: &[u8]) -> io::Result<ListenAddress> {
    let text = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| problem("the running instance sent what is not an address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn sockets_go_over_and_the_successor_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let sent: Vec<_> = (0..40)
            .map(|_| (ListenAddress::Tcp(port), OwnedFd::from(listener.try_clone().unwrap())))
            .collect();
        drop(listener);
        let successor = Successor::listen(&path, Account::default()).unwrap();
        let handing = std::thread::spawn({
            let path = path.clone();
            move || hand_over(&path, sent)
        });
        let (received, predecessor) = successor.receive(Duration::from_secs(10)).unwrap();
        assert_eq!(received.len(), 40);
        assert!(!handing.is_finished());
        predecessor.ready().unwrap();
        handing.join().unwrap().unwrap();
        let (address, socket) = received.into_iter().next().unwrap();
        assert_eq!(address, ListenAddress::Tcp(port));
        TcpStream::connect(port).unwrap().write_all(b"x").unwrap();
        TcpListener::from(socket).accept().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_successor_removes_its_own_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let first = Successor::listen(&path, Account::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let second = Successor::listen(&path, Account::default()).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn without_a_successor_nothing_is_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        assert!(hand_over(&folder.path().join("none.sock"), Vec::new()).is_err());
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        fs::write(&path, "precious").unwrap();
        let error = Successor::listen(&path, Account::default()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_predecessor_that_has_given_up_is_told_from_one_that_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let successor = Successor::listen(&path, Account::default()).unwrap();
        // One that waits for nothing.
        let peer = socket().unwrap();
        net::connect(&peer, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        send(&peer, END, None).unwrap();
        let (_, predecessor) = successor.receive(Duration::from_secs(10)).unwrap();
        assert!(!predecessor.has_given_up());
        drop(peer);
        assert!(predecessor.has_given_up());
        // One that has ended has not given up.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!Predecessor { process: Some(process), ..predecessor }.has_given_up());
    }

    #[test]
    fn a_successor_that_dies_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let successor = Successor::listen(&path, Account::default()).unwrap();
        let handing = std::thread::spawn(move || hand_over(&path, Vec::new()));
        let (_, predecessor) = successor.receive(Duration::from_secs(10)).unwrap();
        drop(predecessor);
        assert!(handing.join().unwrap().is_err());
    }
}
