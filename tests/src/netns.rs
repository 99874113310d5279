//! Network namespaces: machines of their own as far as the network goes, on the one that runs the
//! test. A namespace has its own loopback, addresses, routes, rules and ports; a link joins two of
//! them like a cable, and can be made slow or lossy. Needs root and `ip` (iproute2); losing packets
//! needs `iptables` too. Only the standard library is used, so that the benchmark can include this
//! very file.
//!
//! ```no_run
//! # fn example() -> Result<(), sidelane_tests::netns::NetnsError> {
//! use sidelane_tests::netns::{Link, Namespace};
//!
//! let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
//! let link = Link::between(&left, &right)?;
//! link.shape("200mbit")?;
//! left.run("ping", &["-c", "1", &link.right().v4.to_string()])?;
//! # Ok(())
//! # }
//! ```
//!
//! A namespace ends with its value, and whatever still runs in it is killed. Its name tells which
//! process made it, so that the next one removes what a killed one left behind.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Begins the name of every namespace that is made here; the process id follows.
const PREFIX: &str = "sidelane-";
/// Where `ip netns` keeps the names.
const FOLDER: &str = "/run/netns";
/// How long a queue before a slow link may get: what routers at the edge of a site hold.
const QUEUE: &str = "50ms";
/// What a slow link may send at once: a few of the largest packets that the kernel hands over.
const BURST: &str = "256kb";
/// Processes that were killed are gone in milliseconds; longer means that the machine is stuck.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How many namespaces this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);
/// How many links this process has made: each has a network of its own.
static LINKED: AtomicU32 = AtomicU32::new(0);

/// A network namespace. It ends with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// A cable between two namespaces. It ends with either of them.
#[derive(Debug)]
pub struct Link {
    left: LinkEnd,
    right: LinkEnd,
}

/// One end of a link.
#[derive(Debug, Clone)]
pub struct LinkEnd {
    /// The namespace's name.
    pub namespace: String,
    /// The interface's name in it.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Something about a namespace went wrong.
#[derive(Debug)]
pub enum NetnsError {
    /// A program cannot be started.
    NotFound {
        /// Which.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended with an error.
    Refused {
        /// What was run, as a shell would take it.
        command: String,
        /// What it wrote to standard error, or its status.
        said: String,
    },
}

impl fmt::Display for NetnsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { program, source } => {
                write!(out, "cannot run `{program}` ({source})")?;
                match package(program) {
                    Some(package) => write!(out, "; it comes with the package {package}"),
                    None => Ok(()),
                }
            }
            Self::Refused { command, said } => {
                write!(out, "`{command}` failed: {said}")?;
                if said.contains("ermitted") || said.contains("ermission denied") {
                    out.write_str("; network namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for NetnsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound { source, .. } => Some(source),
            Self::Refused { .. } => None,
        }
    }
}

fn package(program: &str) -> Option<&'static str> {
    match program {
        "ip" | "tc" => Some("iproute2"),
        "iptables" | "ip6tables" => Some("iptables"),
        _ => None,
    }
}

impl Namespace {
    /// Makes one, with its loopback up. `label` is for those who look at `ip netns`.
    ///
    /// # Errors
    /// Without `ip`, or without the right to make one.
    pub fn new(label: &str) -> Result<Self, NetnsError> {
        remove_leftovers()?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        // From here on a failure removes it.
        let namespace = Self { name };
        run(
            "ip",
            &["-n", &namespace.name, "link", "set", "dev", "lo", "up"],
        )?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it: a thread that enters it (`setns`) opens its sockets there, and
    /// so do the processes that this thread starts.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// A command that will run inside. The process that is started is the program itself: its id,
    /// its signals and its standard streams are the program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Runs a program inside to its end, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// If it cannot be run or ends with an error: with what it wrote to standard error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, NetnsError> {
        let mut given = vec!["netns", "exec", &self.name, program];
        given.extend(arguments);
        run("ip", &given)
    }

    /// Gives its loopback one more address, with the length of its prefix: a second machine's
    /// address that is here.
    ///
    /// # Errors
    /// If it has it already.
    pub fn add_address(&self, address: IpAddr) -> Result<(), NetnsError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let address = format!("{address}/{prefix}");
        let mut given = vec![
            "-n", &self.name, "address", "add", &address, "dev", "lo", "scope", "global",
        ];
        if prefix == 128 {
            given.push("nodad");
        }
        run("ip", &given).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            // A panic in a drop would hide why the test failed.
            eprintln!("the namespace {} stays behind: {error}", self.name);
        }
    }
}

impl Link {
    /// Joins two namespaces, which may be joined more than once.
    ///
    /// # Errors
    /// If the kernel has no `veth`.
    ///
    /// # Panics
    /// After 65,536 links of one process: no network is left.
    pub fn between(left: &Namespace, right: &Namespace) -> Result<Self, NetnsError> {
        let network = LINKED.fetch_add(1, Ordering::Relaxed);
        assert!(network < 1 << 16, "no network is left for one more link");
        let [_, _, a, b] = network.to_be_bytes();
        let interface = format!("link{network}");
        let end = |namespace: &Namespace, host: u8| LinkEnd {
            namespace: namespace.name.clone(),
            interface: interface.clone(),
            v4: Ipv4Addr::new(10, a, b, host),
            v6: Ipv6Addr::new(0xfd51, 0xde, a.into(), b.into(), 0, 0, 0, host.into()),
        };
        let link = Self {
            left: end(left, 1),
            right: end(right, 2),
        };
        let Self { left, right } = &link;
        run(
            "ip",
            &[
                "link",
                "add",
                &left.interface,
                "netns",
                &left.namespace,
                "type",
                "veth",
                "peer",
                "name",
                &right.interface,
                "netns",
                &right.namespace,
            ],
        )?;
        left.up()?;
        right.up()?;
        Ok(link)
    }

    /// The end in the first namespace.
    #[must_use]
    pub fn left(&self) -> &LinkEnd {
        &self.left
    }

    /// The end in the second namespace.
    #[must_use]
    pub fn right(&self) -> &LinkEnd {
        &self.right
    }

    /// Lets it carry no more than this in each direction (`200mbit`, as `tc` takes it), behind a
    /// queue of 50 ms that sends what has priority first.
    ///
    /// # Errors
    /// If `tc` is missing or takes no such rate.
    pub fn shape(&self, rate: &str) -> Result<(), NetnsError> {
        self.left.shape(rate)?;
        self.right.shape(rate)
    }

    /// Loses this share of the packets in each direction, without a word: all of them from 1.
    ///
    /// # Errors
    /// Without `iptables` and `ip6tables`.
    pub fn lose(&self, share: f64) -> Result<(), NetnsError> {
        self.left.lose(share)?;
        self.right.lose(share)
    }
}

impl LinkEnd {
    /// Shapes what leaves here, as [`Link::shape`].
    ///
    /// # Errors
    /// As there.
    pub fn shape(&self, rate: &str) -> Result<(), NetnsError> {
        let add = |rest: &[&str]| {
            let mut given = vec!["-n", &self.namespace, "qdisc", "replace", "dev"];
            given.push(&self.interface);
            given.extend(rest);
            run("tc", &given).map(drop)
        };
        add(&[
            "root", "handle", "1:", "tbf", "rate", rate, "burst", BURST, "latency", QUEUE,
        ])?;
        add(&["parent", "1:1", "handle", "10:", "pfifo_fast"])
    }

    /// Loses a share of what arrives here, as [`Link::lose`]; 0 loses nothing any more.
    ///
    /// # Errors
    /// As there.
    pub fn lose(&self, share: f64) -> Result<(), NetnsError> {
        let share = format!("{share:.6}");
        for program in ["iptables", "ip6tables"] {
            let table = |rest: &[&str]| {
                let mut given = vec!["netns", "exec", &self.namespace, program, "-w"];
                given.extend(rest);
                run("ip", &given).map(drop)
            };
            let chain = format!("LOSE_{}", self.interface);
            if table(&["-N", &chain]).is_ok() {
                table(&["-I", "INPUT", "-i", &self.interface, "-j", &chain])?;
            }
            table(&["-F", &chain])?;
            let probability = [
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                &share,
            ];
            table(&[&["-A", &chain][..], &probability, &["-j", "DROP"]].concat())?;
        }
        Ok(())
    }

    fn up(&self) -> Result<(), NetnsError> {
        let interface = self.interface.as_str();
        let ip = |rest: &[&str]| {
            let given = [&["-n", self.namespace.as_str()], rest].concat();
            run("ip", &given).map(drop)
        };
        let (v4, v6) = (format!("{}/24", self.v4), format!("{}/64", self.v6));
        ip(&["address", "add", &v4, "dev", interface])?;
        // Without `nodad` the address is of no use for the first second.
        ip(&["address", "add", &v6, "dev", interface, "nodad"])?;
        ip(&["link", "set", "dev", interface, "up"])
    }
}

/// Removes what processes left behind that made namespaces here and are gone.
fn remove_leftovers() -> Result<(), NetnsError> {
    // Where nobody has ever made one there is no folder.
    let Ok(folder) = std::fs::read_dir(FOLDER) else {
        return Ok(());
    };
    for entry in folder.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if maker(name).is_some_and(|maker| !Path::new("/proc").join(maker).exists()) {
            match remove(name) {
                // Two that start together both find it.
                Err(_) if !Path::new(FOLDER).join(name).exists() => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// The id of the process that made the namespace of this name, if it is one of ours.
fn maker(name: &str) -> Option<&str> {
    let (process, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let ours = process.parse::<u32>().is_ok() && rest.contains('-');
    ours.then_some(process)
}

/// Ends what runs in it, and it.
fn remove(name: &str) -> Result<(), NetnsError> {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let inside = run("ip", &["netns", "pids", name])?;
        // A thread of this very process may still be in there; it is the caller's to end.
        let own = std::process::id().to_string();
        let processes: Vec<&str> = inside.lines().filter(|id| *id != own).collect();
        if processes.is_empty() || Instant::now() > deadline {
            break;
        }
        // One that has just ended by itself is no error.
        let script = "kill -KILL \"$@\" 2>/dev/null || true";
        run("sh", &[&["-c", script, "sh"], &processes[..]].concat())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    run("ip", &["netns", "delete", name]).map(drop)
}

fn run(program: &str, arguments: &[&str]) -> Result<String, NetnsError> {
    let output = Command::new(program).args(arguments).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|source| NetnsError::NotFound {
        program: program.to_owned(),
        source,
    })?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(NetnsError::Refused {
        command: [&[program], arguments].concat().join(" "),
        said: match said.as_str() {
            "" => status.to_string(),
            _ => said,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn only_names_of_ours_tell_a_process() {
        assert_eq!(maker("sidelane-17-0-left"), Some("17"));
        for other in ["sidelane-17", "sidelane-x-0-left", "left", "sidelane--0-a"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let missing = NetnsError::NotFound {
            program: "ip".to_owned(),
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        assert_eq!(
            missing.to_string(),
            "cannot run `ip` (entity not found); it comes with the package iproute2"
        );
        let refused = NetnsError::Refused {
            command: "ip netns add x".to_owned(),
            said: "Operation not permitted".to_owned(),
        };
        assert!(refused.to_string().contains("need root"), "{refused}");
    }

    #[test]
    #[ignore = "needs root and iproute2"]
    fn linked_namespaces_reach_each_other_and_nobody_else() {
        let (left, right) = (
            Namespace::new("left").unwrap(),
            Namespace::new("right").unwrap(),
        );
        let link = Link::between(&left, &right).unwrap();
        let second = Link::between(&left, &right).unwrap();
        let alone = Namespace::new("alone").unwrap();
        for end in [link.right(), second.right()] {
            for address in [IpAddr::from(end.v4), IpAddr::from(end.v6)] {
                assert!(reaches(&left, &right, address), "{address}");
                assert!(!reaches(&alone, &right, address), "{address}");
            }
        }
        let more = IpAddr::from([10, 250, 0, 1]);
        left.add_address(more).unwrap();
        assert!(reaches(&left, &left, more));
        let path = left.path();
        assert!(path.exists());
        drop(left);
        assert!(!path.exists());
    }

    /// Whether a connection from one namespace comes about to where the other listens.
    fn reaches(from: &Namespace, to: &Namespace, address: IpAddr) -> bool {
        let listen = "import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 7000), family=family)
print('up', flush=True)
listener.accept()";
        let dial = "import socket, sys
socket.create_connection((sys.argv[1], 7000), timeout=5)";
        let address = address.to_string();
        let mut server = to.command("python3");
        server.args(["-c", listen, &address]).stdout(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut up = [0; 3];
        server.stdout.take().unwrap().read_exact(&mut up).unwrap();
        let reached = from.run("python3", &["-c", dial, &address]).is_ok();
        server.kill().unwrap();
        server.wait().unwrap();
        reached
    }

    #[test]
    #[ignore = "needs root and iproute2"]
    fn what_runs_inside_ends_with_the_namespace() {
        let namespace = Namespace::new("busy").unwrap();
        let mut command = namespace.command("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut inside = command.spawn().unwrap();
        // Held until the end, since `cat` ends with it.
        let mut input = inside.stdin.take().unwrap();
        input.write_all(b"x").unwrap();
        let mut echoed = [0];
        let output = inside.stdout.as_mut().unwrap();
        output.read_exact(&mut echoed).unwrap();
        // Dropped in another thread: a killed child is there until its parent has waited for it.
        let waiting = std::thread::spawn(move || inside.wait().unwrap());
        drop(namespace);
        assert!(!waiting.join().unwrap().success());
        drop(input);
    }

    #[test]
    #[ignore = "needs root and iproute2"]
    fn what_a_killed_process_left_is_removed() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let left = format!("{PREFIX}{}-0-left", gone.id());
        run("ip", &["netns", "add", &left]).unwrap();
        // Nor is what others made for themselves touched.
        let others = format!("others-{}-0-left", gone.id());
        run("ip", &["netns", "add", &others]).unwrap();
        let own = Namespace::new("own").unwrap();
        let second = Namespace::new("second").unwrap();
        let names = run("ip", &["netns", "list"]).unwrap();
        run("ip", &["netns", "delete", &others]).unwrap();
        let has = |name: &str| {
            let mut listed = names.lines().filter_map(|line| line.split(' ').next());
            listed.any(|listed| listed == name)
        };
        assert!(!has(&left), "{names}");
        assert!(has(&others) && has(own.name()) && has(second.name()));
    }

    #[test]
    #[ignore = "needs root, iproute2 and iptables"]
    fn a_link_can_be_slow_and_lossy() {
        let (left, right) = (
            Namespace::new("left").unwrap(),
            Namespace::new("right").unwrap(),
        );
        let link = Link::between(&left, &right).unwrap();
        link.shape("8mbit").unwrap();
        link.shape("16mbit").unwrap();
        for (namespace, end) in [(&left, link.left()), (&right, link.right())] {
            let shown = namespace.run("tc", &["qdisc", "show"]).unwrap();
            assert!(shown.contains("rate 16Mbit"), "{shown}");
            assert!(shown.contains("qdisc pfifo_fast 10:"), "{shown}");
            assert!(shown.contains(&end.interface), "{shown}");
        }
        let address = IpAddr::from(link.right().v4);
        // 1 MB over 16 Mbit/s takes half a second, less the burst.
        assert!(transfer(&left, &right, address, 1_000_000) > Duration::from_millis(300));
        link.lose(1.0).unwrap();
        let target = address.to_string();
        let answered = |namespace: &Namespace| {
            let script = "import socket, sys
socket.create_connection((sys.argv[1], 7001), timeout=0.3)";
            let refused = namespace.run("python3", &["-c", script, &target]);
            // Nobody listens there: a link that carries packets brings the refusal.
            refused.unwrap_err().to_string().contains("refused")
        };
        assert!(!answered(&left));
        link.lose(0.0).unwrap();
        assert!(answered(&left));
    }

    /// How long so many bytes take from one namespace to the other.
    fn transfer(from: &Namespace, to: &Namespace, address: IpAddr, bytes: usize) -> Duration {
        let listen = "import socket, sys
listener = socket.create_server((sys.argv[1], 7002))
print('up', flush=True)
peer = listener.accept()[0]
left = int(sys.argv[2])
while left:
    left -= len(peer.recv(65536))
peer.sendall(b'.')";
        let dial = "import socket, sys
peer = socket.create_connection((sys.argv[1], 7002))
peer.sendall(bytes(int(sys.argv[2])))
assert peer.recv(1) == b'.'";
        let (address, bytes) = (address.to_string(), bytes.to_string());
        let mut server = to.command("python3");
        server.args(["-c", listen, &address, &bytes]);
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut up = [0; 3];
        server.stdout.take().unwrap().read_exact(&mut up).unwrap();
        let began = Instant::now();
        from.run("python3", &["-c", dial, &address, &bytes])
            .unwrap();
        let took = began.elapsed();
        server.wait().unwrap();
        took
    }
}
