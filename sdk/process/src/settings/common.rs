//! What every program of ours has among its settings: the file, the log, the trust mode, and
//! listeners, which must neither collide nor be open to others unnoticed.

use std::net::SocketAddr;

use super::error::{InvalidSetting, SettingsError};
use super::resolved::{Item, Settings};
use super::table::Flag;
use super::value;
use crate::logs::Levels;

/// The flag that names the YAML file. A program that lists it in its table reads one.
pub const CONFIG: Flag = Flag::single("config", "FILE", "A YAML file with any of these settings");

/// What is logged; see [`log`].
pub const LOG: Flag = Flag::single(
    "log",
    "LEVEL",
    "What is logged: off, error, warn, info or debug (trace only in builds of profile dev), and TARGET=LEVEL after commas",
)
.or("info");

/// How peers prove who they are; see [`trust`].
pub const TRUST: Flag = Flag::single(
    "trust",
    "MODE",
    "How peers prove who they are: strict, permissive, or disabled, everything in the clear",
)
.or("strict");

/// How peers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// By certificates; everything else is refused.
    Strict,
    /// By certificates, or not at all: for the way from one to the other.
    Permissive,
    /// They say it, in the clear.
    Disabled,
}

/// Reads [`LOG`], as [`crate::logs::init`] takes it.
///
/// # Errors
/// A level that there is not.
pub fn log(settings: &Settings) -> Result<String, SettingsError> {
    settings.value(&LOG, |text| text.parse::<Levels>().map(|_| text.to_owned()))
}

/// Reads [`TRUST`].
///
/// # Errors
/// A mode that there is not.
pub fn trust(settings: &Settings) -> Result<Trust, SettingsError> {
    let modes = [
        ("strict", Trust::Strict),
        ("permissive", Trust::Permissive),
        ("disabled", Trust::Disabled),
    ];
    settings.value(&TRUST, |text| {
        value::choice(text, &modes).map_err(|error| error.to_string())
    })
}

/// A TCP address that a program listens on, the setting that named it, and what anybody who
/// reaches it can do.
#[derive(Debug, Clone, Copy)]
pub struct Listener<'a> {
    /// The setting.
    pub item: &'a Item,
    /// Its address.
    pub address: SocketAddr,
    /// What can be done there: `call in this node's name`.
    pub allows: &'static str,
}

/// Checks that no two listeners need the same port.
///
/// # Errors
/// The later of two that collide; the reason names the other one.
pub fn apart(listeners: &[Listener<'_>]) -> Result<(), InvalidSetting> {
    for (index, later) in listeners.iter().enumerate() {
        let earlier = listeners.iter().take(index);
        if let Some(other) = earlier
            .into_iter()
            .find(|other| collide(other.address, later.address))
        {
            return Err(later.item.refuse(format!(
                "{} listens there, too; give each its own",
                other.item
            )));
        }
    }
    Ok(())
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host
}

/// A sentence for each listener that other machines can reach, where nothing proves who calls.
#[must_use]
pub fn open_to_others(listeners: &[Listener<'_>]) -> Vec<String> {
    let open = listeners
        .iter()
        .filter(|listener| !listener.address.ip().is_loopback());
    open.map(|listener| {
        format!(
            "{} is not loopback: with trust disabled, whoever reaches it can {}",
            listener.item, listener.allows
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Origin;

    fn item(flag: &'static str, text: &str) -> Item {
        Item::new(flag, text, Origin::CommandLine)
    }

    fn listener(item: &Item) -> Listener<'_> {
        Listener {
            item,
            address: item.text().parse().unwrap(),
            allows: "do that",
        }
    }

    #[test]
    fn listeners_that_collide_are_both_named() {
        let outbound = item("outbound", "127.0.0.1:15001");
        for text in ["127.0.0.1:15001", "0.0.0.0:15001"] {
            let admin = item("admin", text);
            assert_eq!(
                apart(&[listener(&outbound), listener(&admin)])
                    .unwrap_err()
                    .to_string(),
                format!(
                    "--admin {text:?} (command line): --outbound \"127.0.0.1:15001\" (command \
                     line) listens there, too; give each its own"
                )
            );
        }
        for text in ["127.0.0.2:15001", "127.0.0.1:15000", "[::1]:15001"] {
            apart(&[listener(&outbound), listener(&item("admin", text))]).unwrap();
        }
        let any = [
            item("outbound", "127.0.0.1:0"),
            item("admin", "127.0.0.1:0"),
        ];
        apart(&[listener(&any[0]), listener(&any[1])]).unwrap();
    }

    #[test]
    fn only_listeners_beyond_loopback_are_told() {
        let items =
            ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3", "10.0.0.7:4"].map(|text| item("admin", text));
        assert_eq!(
            open_to_others(&items.each_ref().map(listener)),
            [
                "--admin \"0.0.0.0:3\" (command line) is not loopback: with trust disabled, \
                 whoever reaches it can do that",
                "--admin \"10.0.0.7:4\" (command line) is not loopback: with trust disabled, \
                 whoever reaches it can do that",
            ]
        );
    }
}
