//! Opens the sockets that a program listens on, TCP and unix, in one way: reusable after a
//! restart, never taken from somebody who still listens, and with errors that name the flag to
//! change. It accepts nothing itself.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// Connections that the kernel holds for us until we accept them. A burst of as many callers at
/// once fits; the kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 1024;

/// Only the user that the program runs as may dial its unix sockets: who can dial the outbound
/// one calls in this node's name.
const SOCKET_MODE: u32 = 0o600;

/// A socket that could not be opened for listening.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}, as --{flag} says: {reason}")]
pub struct ListenError {
    /// The flag that names the address, without dashes.
    pub flag: String,
    /// The address.
    pub address: String,
    /// Why, and what to try.
    pub reason: Refusal,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Somebody has the TCP port.
    #[error(
        "another process listens there; choose another with --{flag}, or port 0 for any free one"
    )]
    PortInUse {
        /// The flag to change.
        flag: String,
    },
    /// Not ours to open.
    #[error(
        "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, and a unix socket's folder must be writable"
    )]
    Denied,
    /// Not an address of this machine.
    #[error(
        "this machine has no such address; use one of its own, 127.0.0.1 for itself only, or 0.0.0.0 for all"
    )]
    NotOurs,
    /// Somebody answers on the unix socket.
    #[error("another process answers on this socket; choose another path with --{flag}")]
    SocketInUse {
        /// The flag to change.
        flag: String,
    },
    /// The path holds something else.
    #[error("there is a file that is not a socket; move it away, or choose another path")]
    NotASocket,
    /// The path leads nowhere.
    #[error("its folder does not exist; create it first")]
    NoFolder,
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl Refusal {
    fn of(error: io::Error, flag: &str) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse {
                flag: flag.to_owned(),
            },
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::AddrNotAvailable => Self::NotOurs,
            io::ErrorKind::NotFound => Self::NoFolder,
            _ => Self::Other(error),
        }
    }
}

/// Listens on a TCP address; port 0 takes any free one. `flag` names the flag that the address
/// came from, for errors. Must be called in a tokio runtime.
///
/// # Errors
/// The port is taken, the address is not this machine's, or the user may not use it.
pub fn tcp(address: SocketAddr, flag: &str) -> Result<TcpListener, ListenError> {
    open_tcp(address).map_err(|error| ListenError {
        flag: flag.to_owned(),
        address: address.to_string(),
        reason: Refusal::of(error, flag),
    })
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not wait for the connections of the run before to time out. On Linux this
    // does not let two processes share the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A unix socket that listens. Its file is removed when this is dropped, unless somebody else has
/// put another one there.
#[derive(Debug)]
pub struct UnixSocket {
    /// Accepts connections.
    pub listener: UnixListener,
    file: SocketFile,
}

impl UnixSocket {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Listens on a unix socket that only this user may dial. A file that a dead process left there is
/// replaced. `flag` names the flag that the path came from, for errors. Must be called in a tokio
/// runtime.
///
/// # Errors
/// Somebody answers there, the path holds something that is no socket, or the folder is missing or
/// not writable.
pub fn unix(path: &Path, flag: &str) -> Result<UnixSocket, ListenError> {
    let named = |reason| ListenError {
        flag: flag.to_owned(),
        address: format!("unix:{}", path.display()),
        reason,
    };
    clear(path, flag).map_err(named)?;
    open_unix(path).map_err(|error| {
        named(match Refusal::of(error, flag) {
            // Somebody was quicker, between the check and the bind.
            Refusal::PortInUse { flag } => Refusal::SocketInUse { flag },
            other => other,
        })
    })
}

/// Removes what a dead process left at `path`, and nothing else. Two processes that start on one
/// path within the microseconds between our `bind` and `listen` can still take each other for
/// dead; the one that loses hears nothing, and its end leaves the other's file alone.
fn clear(path: &Path, flag: &str) -> Result<(), Refusal> {
    let refused = |error| Refusal::of(error, flag);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Refusal::NotASocket),
        Ok(_) => {}
    }
    let probe = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A listener with a full backlog must not block us: it says EAGAIN, which means alive.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match probe() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(refused(error)),
        Ok(()) | Err(_) => Err(Refusal::SocketInUse {
            flag: flag.to_owned(),
        }),
    }
}

fn open_unix(path: &Path) -> io::Result<UnixSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    // Before `listen`, so that there is no moment in which another user could connect.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(
        std::os::fd::OwnedFd::from(socket),
    ))?;
    Ok(UnixSocket { listener, file })
}

/// The file of a socket of ours, known by its inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| now.dev() == self.device && now.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn a_taken_port_names_flag_address_and_way_out() {
        let first = tcp("127.0.0.1:0".parse().unwrap(), "outbound").unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(
            tcp(address, "outbound").unwrap_err().to_string(),
            format!(
                "cannot listen on {address}, as --outbound says: another process listens there; \
                 choose another with --outbound, or port 0 for any free one"
            )
        );
    }

    #[tokio::test]
    async fn a_port_can_be_taken_again_at_once() {
        let first = tcp("127.0.0.1:0".parse().unwrap(), "admin").unwrap();
        let address = first.local_addr().unwrap();
        // A connection that the server closes first stays in TIME_WAIT on its side.
        let (client, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(address), first.accept());
        drop(accepted.unwrap());
        drop(first);
        drop(client.unwrap());
        tcp(address, "admin").unwrap();
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_named() {
        let error = tcp("192.0.2.1:15006".parse().unwrap(), "internal").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot listen on 192.0.2.1:15006, as --internal says: this machine has no such \
             address; use one of its own, 127.0.0.1 for itself only, or 0.0.0.0 for all"
        );
    }

    #[test]
    fn a_port_that_the_user_may_not_use_is_named() {
        let denied = Refusal::of(io::ErrorKind::PermissionDenied.into(), "external");
        assert_eq!(
            denied.to_string(),
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, and a unix socket's \
             folder must be writable"
        );
    }

    #[tokio::test]
    async fn a_unix_socket_is_private_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let socket = unix(&path, "outbound").unwrap();
        assert_eq!(socket.path(), path);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), socket.listener.accept());
        client.unwrap();
        accepted.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        // Dropping a std listener leaves its file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = unix(&path, "outbound").unwrap();
        assert_eq!(
            unix(&path, "outbound").unwrap_err().to_string(),
            format!(
                "cannot listen on unix:{}, as --outbound says: another process answers on this \
                 socket; choose another path with --outbound",
                path.display()
            )
        );
        assert!(UnixStream::connect(socket.path()).await.is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "keep me").unwrap();
        let error = unix(&path, "outbound").unwrap_err();
        assert!(matches!(error.reason, Refusal::NotASocket), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "keep me");
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = unix(&folder.path().join("gone/s.sock"), "outbound").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("its folder does not exist; create it first")
        );
    }

    #[tokio::test]
    async fn a_socket_of_somebody_else_survives_our_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let ours = unix(&path, "outbound").unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
