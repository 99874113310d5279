//! What control's own user does to a running mesh by the commands of the program.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Cluster;
use crate::run::{Ended, Run};

impl Cluster {
    /// Runs a command against this mesh's control, as its own user.
    pub async fn command(&self, arguments: &[&str]) -> Ended {
        let control = self.control().listen().to_string();
        let folder = self.folder().display().to_string();
        Run::of(&self.ground.program)
            .with(arguments.iter().copied())
            .with(["--control", &control])
            .variable("XDG_RUNTIME_DIR", &folder)
            .to_its_end()
            .await
    }

    /// The same, and gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub async fn done(&self, arguments: &[&str]) -> String {
        let ended = self.command(arguments).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    }

    /// A join token for this node, in a file for its owner alone.
    ///
    /// # Panics
    /// If there is none to be had.
    pub async fn token(&self, node: &str, ttl: &str) -> (PathBuf, String) {
        let text = self.done(&["token", "--node", node, "--ttl", ttl]).await;
        let path = self.folder().join(format!("{node}.token"));
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (path, text.trim().to_owned())
    }

    /// A folder in which no control has left anything: as on another machine.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn elsewhere(&self) -> String {
        let folder = self.folder().join("elsewhere");
        std::fs::create_dir_all(&folder).unwrap();
        folder.display().to_string()
    }
}
