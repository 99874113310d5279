//! What the benchmark's own child processes owe their parent: to say where they listen, and to
//! leave when it does. The second is told by the end of standard input, which the kernel closes
//! however the parent dies; so nothing is left behind, not even by SIGKILL.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;

/// Listens on a free loopback port and writes its address as the only line of standard output.
pub(crate) async fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let mut output = io::stdout().lock();
    writeln!(output, "{}", listener.local_addr()?)?;
    output.flush()?;
    drop(output);
    Ok(listener)
}

/// Ends when the parent has gone, or with an error where standard input is no pipe.
pub(crate) async fn gone() -> io::Result<()> {
    // No thread that blocks on the read: these processes are measured with one thread.
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = pipe::Receiver::from_owned_fd(input)?;
    let mut ignored = [0; 64];
    while input.read(&mut ignored).await? > 0 {}
    Ok(())
}
