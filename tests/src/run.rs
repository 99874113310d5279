//! One program run to its end: with its arguments and its variables, and nothing of whoever runs
//! the tests. For what a process says when it cannot start, and for commands that answer and end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::secrets;

/// A program that cannot start says so at once; longer means that it has started.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A program that is about to be run.
#[derive(Debug, Clone)]
pub struct Run {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    folder: Option<PathBuf>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

impl Run {
    /// A run of this program, with nothing said to it yet.
    #[must_use]
    pub fn of(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: None,
        }
    }

    /// These arguments more.
    #[must_use]
    pub fn with<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In this working directory.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it cannot be run, or has not ended after 10 s.
    pub async fn to_its_end(self) -> Ended {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SIDELANE_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let ended = tokio::time::timeout(END_LIMIT, command.output()).await;
        let output = ended
            .unwrap_or_else(|_| panic!("{self:?} has not ended after {END_LIMIT:?}"))
            .unwrap_or_else(|error| panic!("{self:?} cannot be run: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let ended = Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        secrets::hide_given(&self.arguments, &self.variables);
        let said = self.arguments.join(" ");
        secrets::assert_none(&format!("the errors of `{said}`"), &ended.stderr);
        // A token is made to be printed.
        if !self.arguments.iter().any(|it| it == "token") {
            secrets::assert_none(&format!("the output of `{said}`"), &ended.stdout);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_gives_code_and_both_outputs() {
        let script = "echo said; echo \"$WORD\" >&2; exit 3";
        let ended = Run::of("/bin/sh")
            .with(["-c", script])
            .variable("WORD", "wrong")
            .to_its_end()
            .await;
        let expected = Ended {
            code: Some(3),
            stdout: "said\n".to_owned(),
            stderr: "wrong\n".to_owned(),
        };
        assert_eq!(ended, expected);
    }
}
