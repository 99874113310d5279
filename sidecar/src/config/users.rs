//! Reads what users meet on the external listener: the certificate, the oldest TLS, and the bounds.

use std::time::Duration;

use sidelane_process::files;
use sidelane_process::settings::{Flag, Origin, Settings, SettingsError, value};

use super::Users;
use super::read;
use super::table::{
    EXTERNAL, EXTERNAL_ACCEPT_RATE, EXTERNAL_CALLS, EXTERNAL_CONNECTIONS, EXTERNAL_DEADLINE,
    EXTERNAL_IDLE, EXTERNAL_KEEPALIVE, EXTERNAL_MEMORY, EXTERNAL_MESSAGE, EXTERNAL_PER_ADDRESS,
    EXTERNAL_QUIET, EXTERNAL_STALL, EXTERNAL_STREAMS, TLS_CERT, TLS_KEY, TLS_MIN,
};
use crate::edge::Limits;
use crate::edge::descriptors;
use crate::edge::files::Pair;
use crate::edge::tls::Oldest;

/// The most of anything that is counted in pieces.
const MOST: u32 = 1_000_000;
/// The shortest time, in seconds, that a user is waited for.
const SHORTEST_WAIT: u64 = 1;
/// The least memory, in bytes, that users may be given: one address has a quarter of it, and a request
/// that stands still may take a window of 256 KiB and what is kept to send it again.
const LEAST_MEMORY: u32 = 2 * 1024 * 1024;

pub(super) fn read(settings: &Settings) -> Result<Users, SettingsError> {
    refuse_without_users(settings)?;
    refuse_beyond_descriptors(settings)?;
    Ok(Users {
        pair: pair(settings)?,
        oldest: settings.value(&TLS_MIN, oldest)?,
        limits: Limits {
            streams: settings.value(&EXTERNAL_STREAMS, pieces)?,
            message: settings.value(&EXTERNAL_MESSAGE, bytes)?,
            connections: settings.value(&EXTERNAL_CONNECTIONS, pieces)? as usize,
            per_address: settings.value(&EXTERNAL_PER_ADDRESS, pieces)? as usize,
            accept_rate: settings.value(&EXTERNAL_ACCEPT_RATE, pieces)?,
            idle: settings.value(&EXTERNAL_IDLE, wait)?,
            stall: settings.value(&EXTERNAL_STALL, wait)?,
            quiet: settings.value(&EXTERNAL_QUIET, wait)?,
            deadline: settings.value(&EXTERNAL_DEADLINE, wait)?,
            keepalive: settings.value(&EXTERNAL_KEEPALIVE, wait)?,
            calls_of_address: settings.value(&EXTERNAL_CALLS, pieces)?,
            memory: settings.value(&EXTERNAL_MEMORY, memory)?,
        },
    })
}

/// What is said of users where none can come is a mistake, and is not passed over.
fn refuse_without_users(settings: &Settings) -> Result<(), SettingsError> {
    const OF_USERS: [&Flag; 15] = [
        &TLS_CERT,
        &TLS_KEY,
        &TLS_MIN,
        &EXTERNAL_STREAMS,
        &EXTERNAL_MESSAGE,
        &EXTERNAL_CONNECTIONS,
        &EXTERNAL_PER_ADDRESS,
        &EXTERNAL_ACCEPT_RATE,
        &EXTERNAL_IDLE,
        &EXTERNAL_STALL,
        &EXTERNAL_QUIET,
        &EXTERNAL_DEADLINE,
        &EXTERNAL_KEEPALIVE,
        &EXTERNAL_CALLS,
        &EXTERNAL_MEMORY,
    ];
    if settings.value(&EXTERNAL, read::external)?.is_some() {
        return Ok(());
    }
    let given = OF_USERS.iter().filter_map(|flag| settings.item(flag));
    let mut said = given.filter(|item| *item.origin() != Origin::Default);
    match said.next() {
        None => Ok(()),
        Some(item) => Err(item
            .refuse("no user can come: say where, by --external ADDRESS")
            .into()),
    }
}

/// A bound that was asked for and cannot hold is refused; the one by default is warned of at the start.
fn refuse_beyond_descriptors(settings: &Settings) -> Result<(), SettingsError> {
    let connections = settings.value(&EXTERNAL_CONNECTIONS, pieces)? as usize;
    let item = settings.item(&EXTERNAL_CONNECTIONS);
    let Some(item) = item.filter(|item| *item.origin() != Origin::Default) else {
        return Ok(());
    };
    // The start raises the soft limit to it.
    match descriptors::missing(connections, files::most()) {
        None => Ok(()),
        Some(why) => Err(item.refuse(why).into()),
    }
}

fn pair(settings: &Settings) -> Result<Option<Pair>, SettingsError> {
    const FLAGS: [&Flag; 2] = [&TLS_CERT, &TLS_KEY];
    let items = FLAGS.map(|flag| settings.item(flag));
    let given = items.iter().flatten().next();
    let Some(given) = given else { return Ok(None) };
    match items {
        [Some(certificate), Some(key)] => Ok(Some(Pair {
            certificate: certificate.text().into(),
            key: key.text().into(),
        })),
        _ => Err(given
            .refuse("--tls-cert and --tls-key come together; name both")
            .into()),
    }
}

fn oldest(text: &str) -> Result<Oldest, String> {
    match text {
        "1.2" => Ok(Oldest::Tls12),
        "1.3" => Ok(Oldest::Tls13),
        "1.0" | "1.1" => Err(format!(
            "TLS {text} is not spoken any more (RFC 8996); write 1.2 or 1.3"
        )),
        _ => Err("must be 1.2 or 1.3".to_owned()),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let time = value::duration(text).map_err(|error| error.to_string())?;
    if time.as_secs() < SHORTEST_WAIT {
        return Err(format!("must be at least {SHORTEST_WAIT}s"));
    }
    Ok(time)
}

fn memory(text: &str) -> Result<u32, String> {
    let read = bytes(text)?;
    if read < LEAST_MEMORY {
        return Err("must be at least 2MiB: one address has a quarter of it".to_owned());
    }
    Ok(read)
}

fn pieces(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|it| (1..=MOST).contains(it));
    number.ok_or_else(|| format!("must be a whole number from 1 to {MOST}"))
}

/// A number of bytes, with KiB, MiB or GiB, or without.
pub(super) fn bytes(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.len());
    let factor: Option<u32> = match unit {
        "" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let read = factor.and_then(|factor| number.parse::<u32>().ok()?.checked_mul(factor));
    read.filter(|bytes| *bytes > 0)
        .ok_or_else(|| "must be bytes below 4 GiB, such as 4MiB, 512KiB or 65536".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit_and_refused_otherwise() {
        let cases = [
            ("1", 1),
            ("64KiB", 65_536),
            ("4MiB", 4 << 20),
            ("3GiB", 3 << 30),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected));
        }
        for bad in ["", "0", "MiB", "4MB", "4GiB", "-1", "1.5MiB", "4 MiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_too_old_is_refused_by_name() {
        assert_eq!(oldest("1.2"), Ok(Oldest::Tls12));
        assert_eq!(oldest("1.3"), Ok(Oldest::Tls13));
        for old in ["1.0", "1.1"] {
            let expected = format!("TLS {old} is not spoken any more (RFC 8996); write 1.2 or 1.3");
            assert_eq!(oldest(old), Err(expected));
        }
        assert!(oldest("1.4").is_err());
    }
}
