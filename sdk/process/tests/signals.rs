//! Signals, in a process of their own so that no other test is hit by them.

use std::process::{Command, ExitStatus};

use sidelane_process::signals::{Signal, Signals, Stop};

fn send(signal: &str) -> std::io::Result<ExitStatus> {
    let kill = format!("kill -{signal} {}", std::process::id());
    Command::new("sh").args(["-c", &kill]).status()
}

#[tokio::test]
async fn the_first_signal_drains_and_the_next_forces() {
    let mut signals = Signals::install().unwrap();
    assert!(send("TERM").unwrap().success());
    assert_eq!(signals.next().await, Stop::Drain(Signal::Terminate));
    assert!(send("INT").unwrap().success());
    assert_eq!(signals.next().await, Stop::Force(Signal::Interrupt));
    assert!(send("TERM").unwrap().success());
    assert_eq!(signals.next().await, Stop::Force(Signal::Terminate));
    assert_eq!(Signal::Terminate.to_string(), "SIGTERM");
}
