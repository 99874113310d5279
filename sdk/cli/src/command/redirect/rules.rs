//! The rules as text, and how to come from what stands to what shall stand. Nothing here runs a
//! program: what `iptables-save` wrote comes in, what `iptables-restore` takes goes out.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The chain that holds all our rules; whatever is in it is ours.
pub(super) const CHAIN: &str = "SIDELANE_REDIRECT";
/// What the sidecar's own sockets carry, so that they are left alone.
pub(super) const MARK: u32 = sidelane_sidecar::SOCKET_MARK;

/// One of the two tables that the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What shall be redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The services' ports, each once.
    pub(super) ports: Vec<u16>,
    /// The sidecar's.
    pub(super) to: u16,
    /// The sidecar's user, if its sockets may have no mark.
    pub(super) exempt_uid: Option<u32>,
    /// In which tables.
    pub(super) families: &'static [Family],
}

/// What of ours stands in one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The rules of our chain, without its name; `None` if there is no chain.
    rules: Option<Vec<String>>,
    /// The rules of `OUTPUT` that lead into it, without that name.
    jumps: Vec<String>,
}

impl Family {
    /// As people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The program that reads (`save`) or writes (`restore`) its table.
    pub(super) fn program(self, what: &str) -> String {
        let program = match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        };
        format!("{program}-{what}")
    }

    /// Where redirected connections arrive: the kernel changes the destination of what leaves this
    /// machine to the first loopback address.
    pub(super) fn sidecar(self, port: u16) -> SocketAddr {
        let ip = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(ip, port)
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }
}

/// What shall stand in this table.
pub(super) fn wanted(plan: &Plan, family: Family) -> State {
    // What is exempt comes first: a sidecar that redirects itself would call itself for ever.
    let mut rules = vec![format!("-m mark --mark {MARK:#x} -j RETURN")];
    if let Some(uid) = plan.exempt_uid {
        rules.push(format!("-m owner --uid-owner {uid} -j RETURN"));
    }
    // The way from the sidecar to its app, and tools that ask one thing on this machine.
    rules.push(format!("-d {} -j RETURN", family.loopback()));
    for port in &plan.ports {
        let to = plan.to;
        rules.push(format!(
            "-p tcp -m tcp --dport {port} -j REDIRECT --to-ports {to}"
        ));
    }
    State {
        rules: Some(rules),
        jumps: vec![format!("-p tcp -j {CHAIN}")],
    }
}

impl State {
    /// Reads what `iptables-save -t nat` wrote; all that is not ours is passed over.
    pub(super) fn parse(saved: &str) -> Self {
        let mut state = Self::default();
        for line in saved.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some(chain), _) if chain.strip_prefix(':') == Some(CHAIN) => {
                    state.rules.get_or_insert_default();
                }
                (Some("-A"), Some(CHAIN)) => {
                    let rule = words.collect::<Vec<_>>().join(" ");
                    state.rules.get_or_insert_default().push(rule);
                }
                (Some("-A"), Some("OUTPUT")) => {
                    let rule: Vec<_> = words.collect();
                    if let [.., "-j" | "-g", CHAIN] = rule.as_slice() {
                        state.jumps.push(rule.join(" "));
                    }
                }
                _ => {}
            }
        }
        state
    }

    /// Whether nothing of ours is there.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_none() && self.jumps.is_empty()
    }

    /// How many ports it redirects.
    pub(super) fn ports(&self) -> usize {
        let rules = self.rules.iter().flatten();
        rules.filter(|rule| rule.contains("-j REDIRECT")).count()
    }
}

/// What `iptables-restore --noflush` has to be told: the kernel takes all of it at once or nothing,
/// and whatever is not ours stays as it is.
pub(super) fn change(from: &State, to: &State) -> String {
    let mut text = String::from("*nat\n");
    // Writing into a String cannot fail.
    for jump in &from.jumps {
        let _ = writeln!(text, "-D OUTPUT {jump}");
    }
    if let Some(rules) = &to.rules {
        // Makes the chain, or empties it.
        let _ = writeln!(text, ":{CHAIN} - [0:0]");
        for rule in rules {
            let _ = writeln!(text, "-A {CHAIN} {rule}");
        }
    } else if from.rules.is_some() {
        let _ = writeln!(text, "-F {CHAIN}\n-X {CHAIN}");
    }
    // In front: who else rewrites destinations would do so before us.
    for jump in to.jumps.iter().rev() {
        let _ = writeln!(text, "-I OUTPUT 1 {jump}");
    }
    text.push_str("COMMIT\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Family] = &[Family::V4, Family::V6];

    fn plan(exempt_uid: Option<u32>) -> Plan {
        Plan {
            ports: vec![50_051, 443],
            to: 15_001,
            exempt_uid,
            families: BOTH,
        }
    }

    const INSTALLED: &str = "*nat
:SIDELANE_REDIRECT - [0:0]
-A SIDELANE_REDIRECT -m mark --mark 0x51de -j RETURN
-A SIDELANE_REDIRECT -d 127.0.0.0/8 -j RETURN
-A SIDELANE_REDIRECT -p tcp -m tcp --dport 50051 -j REDIRECT --to-ports 15001
-A SIDELANE_REDIRECT -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001
-I OUTPUT 1 -p tcp -j SIDELANE_REDIRECT
COMMIT
";

    /// As `iptables-save` shows it, among what others have made.
    const SAVED: &str =
        "# Generated by iptables-save v1.8.9 (nf_tables) on Sat Nov 21 08:00:00 2026
*nat
:PREROUTING ACCEPT [12:720]
:OUTPUT ACCEPT [3:180]
:DOCKER - [0:0]
:SIDELANE_REDIRECT - [0:0]
-A OUTPUT -p tcp -j SIDELANE_REDIRECT
-A OUTPUT -d 10.0.0.1/32 -j DOCKER
-A DOCKER -p tcp -m comment --comment SIDELANE_REDIRECT -j RETURN
-A SIDELANE_REDIRECT -m mark --mark 0x51de -j RETURN
-A SIDELANE_REDIRECT -d 127.0.0.0/8 -j RETURN
-A SIDELANE_REDIRECT -p tcp -m tcp --dport 50051 -j REDIRECT --to-ports 15001
-A SIDELANE_REDIRECT -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001
COMMIT
";

    #[test]
    fn what_is_exempt_stands_before_what_is_redirected() {
        let text = change(&State::default(), &wanted(&plan(None), Family::V4));
        assert_eq!(text, INSTALLED);
        let text = change(&State::default(), &wanted(&plan(Some(1337)), Family::V6));
        let rules: Vec<_> = text.lines().collect();
        assert_eq!(
            rules[2..5],
            [
                "-A SIDELANE_REDIRECT -m mark --mark 0x51de -j RETURN",
                "-A SIDELANE_REDIRECT -m owner --uid-owner 1337 -j RETURN",
                "-A SIDELANE_REDIRECT -d ::1/128 -j RETURN",
            ]
        );
    }

    #[test]
    fn what_was_saved_is_read_back_as_it_was_wanted() {
        let found = State::parse(SAVED);
        assert_eq!(found, wanted(&plan(None), Family::V4));
        assert_eq!(found.ports(), 2);
        assert!(State::parse("").is_empty());
        let others = SAVED.lines().filter(|line| !line.contains(CHAIN));
        assert!(State::parse(&others.collect::<Vec<_>>().join("\n")).is_empty());
    }

    #[test]
    fn a_second_install_replaces() {
        let found = State::parse(SAVED);
        let text = change(&found, &wanted(&plan(None), Family::V4));
        let expected = INSTALLED.replace("*nat\n", "*nat\n-D OUTPUT -p tcp -j SIDELANE_REDIRECT\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_removal_takes_every_jump_and_the_chain() {
        let mut found = State::parse(SAVED);
        found
            .jumps
            .push("-p tcp -m tcp -j SIDELANE_REDIRECT".to_owned());
        assert_eq!(
            change(&found, &State::default()),
            "*nat
-D OUTPUT -p tcp -j SIDELANE_REDIRECT
-D OUTPUT -p tcp -m tcp -j SIDELANE_REDIRECT
-F SIDELANE_REDIRECT
-X SIDELANE_REDIRECT
COMMIT
"
        );
        // Half of it, as an interrupted stranger may have left it.
        let half = State::parse("*nat\n:SIDELANE_REDIRECT - [0:0]\nCOMMIT\n");
        assert!(!half.is_empty());
        assert_eq!(
            change(&half, &State::default()),
            "*nat\n-F SIDELANE_REDIRECT\n-X SIDELANE_REDIRECT\nCOMMIT\n"
        );
    }

    #[test]
    fn connections_arrive_at_the_first_loopback_address() {
        assert_eq!(Family::V4.sidecar(15_001).to_string(), "127.0.0.1:15001");
        assert_eq!(Family::V6.sidecar(15_001).to_string(), "[::1]:15001");
    }
}
