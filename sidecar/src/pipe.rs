//! Byte streams that never leave this process: between a program and the sidecar that it has linked
//! in. HTTP/2 is spoken on them as on a socket, so that windows, cancellation and counting are what
//! they are elsewhere. Below the stages, like `socket`; who accepts and who opens is decided above.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Bytes on their way in one direction of one pipe; whoever writes more waits until they are read.
/// Two of the largest frames of lane General fit, so that a frame is not handed over in pieces.
pub const BUFFER: usize = 64 * 1024;
/// Pipes that were opened and not accepted yet. Whoever opens more waits.
pub const WAITING: usize = 64;

/// Opens pipes to one acceptor. Clones open to the same one, and only they are equal.
#[derive(Clone)]
pub struct Opener {
    name: Arc<str>,
    pipes: mpsc::Sender<DuplexStream>,
}

/// Where pipes arrive.
#[derive(Debug)]
pub struct Acceptor(mpsc::Receiver<DuplexStream>);

/// Both ends of a place that pipes are opened to. `name` is for people.
#[must_use]
pub fn listen(name: &str) -> (Opener, Acceptor) {
    let (pipes, arriving) = mpsc::channel(WAITING);
    let opener = Opener {
        name: Arc::from(name),
        pipes,
    };
    (opener, Acceptor(arriving))
}

impl Opener {
    /// Opens a pipe, and waits while too many others wait to be accepted.
    ///
    /// # Errors
    /// Nobody accepts any more.
    pub async fn open(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let sent = self.pipes.send(theirs).await;
        sent.map(|()| ours).map_err(|_| {
            let text = format!("{self} has ended; nobody takes calls there any more");
            io::Error::new(io::ErrorKind::ConnectionRefused, text)
        })
    }

    /// Does anybody accept?
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.pipes.is_closed()
    }
}

impl Acceptor {
    /// The next pipe; `None` once nobody can open one any more.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.0.recv().await
    }
}

impl PartialEq for Opener {
    fn eq(&self, other: &Self) -> bool {
        self.pipes.same_channel(&other.pipes)
    }
}

impl Eq for Opener {}

impl Hash for Opener {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Opener({})", self.name)
    }
}

impl fmt::Display for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn stands_still(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_pending()
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_no_more_than_the_bound_waits() {
        let (opener, mut acceptor) = listen("here");
        let mut ours = opener.open().await.unwrap();
        let mut theirs = acceptor.accept().await.unwrap();
        ours.write_all(&vec![7; BUFFER]).await.unwrap();
        assert!(stands_still(ours.write_all(b"more")));
        let mut read = vec![0; BUFFER];
        theirs.read_exact(&mut read).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));

        let mut opened = Vec::new();
        for _ in 0..WAITING {
            opened.push(opener.open().await.unwrap());
        }
        assert!(stands_still(opener.open()));
        acceptor.accept().await.unwrap();
        assert!(!stands_still(opener.open()));
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_told() {
        let (opener, acceptor) = listen("the mesh of orders-1");
        assert_eq!(opener, opener.clone());
        assert_ne!(opener, listen("the mesh of orders-1").0);
        drop(acceptor);
        assert!(!opener.is_open());
        let error = opener.open().await.unwrap_err();
        let text = "the mesh of orders-1 has ended; nobody takes calls there any more";
        assert_eq!(error.to_string(), text);
    }
}
