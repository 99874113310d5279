//! The folder in which programs of one user on one machine leave each other what nobody else may
//! read: `$XDG_RUNTIME_DIR/sidelane`, or `/tmp/sidelane-<uid>` where there is none. It is used only
//! if it is this user's and closed to all others, since anybody may make a folder in `/tmp`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::settings::Environment;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The longest file that is read, in bytes.
const FILE_LIMIT: u64 = 16 << 10;

/// The folder. It is made when something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFolder(PathBuf);

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It, or a file in it, is another's, or open to others.
    #[error(
        "{path} is not this user's alone (owner {owner}, mode {mode:03o}), so it is not used; \
         remove it, or set XDG_RUNTIME_DIR to a folder of your own",
        path = path.display()
    )]
    Shared {
        /// Which.
        path: PathBuf,
        /// The user whose it is.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// Something else is in a file's place.
    #[error("{path} is {what} and no plain file, so it is not used; remove it", path = path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The system says no.
    #[error("{path} cannot be used: {reason}", path = path.display())]
    System {
        /// Which.
        path: PathBuf,
        /// What it says.
        reason: io::Error,
    },
}

/// The name of the join file of control at this address.
#[must_use]
pub fn join_name(control: SocketAddr) -> String {
    format!("control-{control}.join")
}

/// The names that the join file of control at this address may have. Control is dialled at one
/// address of its machine, and may listen at all of them; on another machine it leaves nothing here.
#[must_use]
pub fn join_names(control: SocketAddr) -> Vec<String> {
    if !is_here(control.ip()) {
        return Vec::new();
    }
    let any = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
    ];
    let any = any.map(|ip| SocketAddr::new(ip, control.port()));
    [control].into_iter().chain(any).map(join_name).collect()
}

/// Is this an address of this machine? Only those can be bound.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

impl RuntimeFolder {
    /// This user's.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        match environment.get("XDG_RUNTIME_DIR") {
            Some(folder) if Path::new(folder).is_absolute() => {
                Self(Path::new(folder).join("sidelane"))
            }
            _ => {
                let user = rustix::process::geteuid().as_raw();
                Self(PathBuf::from(format!("/tmp/sidelane-{user}")))
            }
        }
    }

    /// A folder of this path.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where a file of it is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file whole, for this user alone.
    ///
    /// # Errors
    /// The folder is not this user's alone, or the system says no.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        let made = DirBuilder::new().mode(FOLDER_MODE).create(&self.0);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(system(&self.0, error));
            }
            Ok(()) | Err(_) => private(&self.0)?,
        }
        let (path, draft) = (self.path(name), self.path(&format!("{name}.new")));
        let write = || {
            match std::fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(FILE_MODE);
            options.open(&draft)?.write_all(bytes)?;
            std::fs::rename(&draft, &path)
        };
        write().map_err(|error| system(&path, error))
    }

    /// Reads a file that this user left; `None` where there is none.
    ///
    /// # Errors
    /// It, or the folder, is not this user's alone, or the system says no.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
        let path = self.path(name);
        let found = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|error| system(&path, error))?,
        };
        private(&self.0)?;
        private(&path)?;
        // The folder is ours alone by now. To open a pipe would be to wait for whoever writes to it.
        let kind = found.file_type();
        if !kind.is_file() {
            let what = match (kind.is_dir(), kind.is_fifo()) {
                (true, _) => "a folder",
                (_, true) => "a named pipe",
                _ => "something else",
            };
            return Err(RuntimeError::NotAFile { path, what });
        }
        let file = std::fs::File::open(&path).map_err(|error| system(&path, error))?;
        // Made as long at once, so that a secret is not copied while it grows.
        let room = usize::try_from(found.len().min(FILE_LIMIT)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(room + 1);
        let read = file.take(FILE_LIMIT).read_to_end(&mut bytes);
        read.map_err(|error| system(&path, error))?;
        Ok(Some(bytes))
    }

    /// Where else a file of this name lies: the places are two, and who runs with another
    /// `XDG_RUNTIME_DIR` leaves it in the other one.
    #[must_use]
    pub fn elsewhere(&self, name: &str) -> Option<PathBuf> {
        let user = rustix::process::geteuid().as_raw();
        let usual = [
            format!("/run/user/{user}/sidelane"),
            format!("/tmp/sidelane-{user}"),
        ];
        let others = usual
            .into_iter()
            .map(PathBuf::from)
            .filter(|it| *it != self.0);
        others
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) {
        // Nobody can do anything about a file that cannot be removed; its secret is worth nothing.
        let _ = std::fs::remove_file(self.path(name));
    }
}

fn system(path: &Path, reason: io::Error) -> RuntimeError {
    let path = path.to_owned();
    RuntimeError::System { path, reason }
}

/// A link is neither followed nor trusted: it has a mode that is open to all.
fn private(path: &Path) -> Result<(), RuntimeError> {
    let found = std::fs::symlink_metadata(path).map_err(|error| system(path, error))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    if owner == rustix::process::geteuid().as_raw() && mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.to_owned();
    Err(RuntimeError::Shared { path, owner, mode })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_left_is_found_and_gone_when_it_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().to_str().unwrap().to_owned();
        let environment = Environment::new([("XDG_RUNTIME_DIR", path.as_str())]);
        let folder = RuntimeFolder::of(&environment);
        let name = join_name("127.0.0.1:15010".parse().unwrap());
        assert!(folder.read(&name).unwrap().is_none());
        folder.write(&name, b"one").unwrap();
        folder.write(&name, b"two").unwrap();
        assert_eq!(folder.read(&name).unwrap().unwrap(), b"two");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path(&name)), 0o600);
        assert_eq!(mode(&folder.0), 0o700);
        folder.remove(&name);
        assert!(folder.read(&name).unwrap().is_none());
    }

    #[test]
    fn what_others_can_read_or_change_is_not_used() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = RuntimeFolder::at(temporary.path().join("sidelane"));
        folder.write("a", b"one").unwrap();
        set(&folder.path("a"), 0o640);
        let error = folder.read("a").unwrap_err();
        assert!(
            matches!(error, RuntimeError::Shared { mode: 0o640, .. }),
            "{error}"
        );
        set(&folder.path("a"), 0o600);
        set(&folder.0, 0o755);
        assert!(matches!(folder.read("a"), Err(RuntimeError::Shared { .. })));
        assert!(matches!(
            folder.write("a", b"two"),
            Err(RuntimeError::Shared { .. })
        ));
    }

    #[test]
    fn a_link_to_somewhere_else_is_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = RuntimeFolder::at(temporary.path().join("sidelane"));
        folder.write("a", b"one").unwrap();
        let other = temporary.path().join("other");
        std::fs::write(&other, b"bait").unwrap();
        std::os::unix::fs::symlink(&other, folder.path("b")).unwrap();
        assert!(matches!(folder.read("b"), Err(RuntimeError::Shared { .. })));
        std::os::unix::fs::symlink(&other, folder.path("c.new")).unwrap();
        folder.write("c", b"two").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"bait");
    }

    #[test]
    fn what_is_no_plain_file_is_refused_by_what_it_is_and_nobody_waits() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = RuntimeFolder::at(temporary.path().join("sidelane"));
        folder.write("a", b"one").unwrap();
        DirBuilder::new()
            .mode(0o700)
            .create(folder.path("b"))
            .unwrap();
        let error = folder.read("b").unwrap_err().to_string();
        assert!(error.contains("a folder and no plain file"), "{error}");
        let made = std::process::Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(folder.path("c"))
            .status();
        if made.is_ok_and(|made| made.success()) {
            let error = folder.read("c").unwrap_err().to_string();
            assert!(error.contains("a named pipe"), "{error}");
        }
        let socket = std::os::unix::net::UnixListener::bind(folder.path("d")).unwrap();
        set(&folder.path("d"), 0o600);
        let error = folder.read("d").unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        drop(socket);
    }

    #[test]
    fn a_control_that_listens_everywhere_is_found_at_each_address_of_its_machine() {
        let names = |address: &str| join_names(address.parse().unwrap());
        let (any, six) = ("control-0.0.0.0:9.join", "control-[::]:9.join");
        assert_eq!(names("127.0.0.1:9"), ["control-127.0.0.1:9.join", any, six]);
        // Kept for documentation (RFC 5737): no machine's.
        assert!(names("192.0.2.1:9").is_empty());
    }

    #[test]
    fn without_a_runtime_folder_it_is_the_users_own_in_tmp() {
        let user = rustix::process::geteuid().as_raw();
        for environment in [
            Environment::new([("XDG_RUNTIME_DIR", "run")]),
            Environment::new([("A", "b")]),
        ] {
            let path = PathBuf::from(format!("/tmp/sidelane-{user}"));
            assert_eq!(RuntimeFolder::of(&environment), RuntimeFolder(path));
        }
    }
}
