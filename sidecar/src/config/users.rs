//! Reads what users meet on the external listener: the certificate, the oldest TLS, and the bounds.

use std::time::Duration;

use sidelane_process::settings::{Flag, Settings, SettingsError, value};

use super::Users;
use super::read;
use super::table::{
    EXTERNAL, EXTERNAL_ACCEPT_RATE, EXTERNAL_CONNECTIONS, EXTERNAL_IDLE, EXTERNAL_MESSAGE,
    EXTERNAL_PER_ADDRESS, EXTERNAL_STALL, EXTERNAL_STREAMS, TLS_CERT, TLS_KEY, TLS_MIN,
};
use crate::edge::Limits;
use crate::edge::files::Pair;
use crate::edge::tls::Oldest;

/// The most of anything that is counted in pieces.
const MOST: u32 = 1_000_000;
/// The shortest time, in seconds, that a user is waited for.
const SHORTEST_WAIT: u64 = 1;

pub(super) fn read(settings: &Settings) -> Result<Users, SettingsError> {
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
        },
    })
}

fn pair(settings: &Settings) -> Result<Option<Pair>, SettingsError> {
    const FLAGS: [&Flag; 2] = [&TLS_CERT, &TLS_KEY];
    let items = FLAGS.map(|flag| settings.item(flag));
    let given = items.iter().flatten().next();
    let Some(given) = given else { return Ok(None) };
    let off = settings.value(&EXTERNAL, read::external)?.is_none();
    if off {
        let why = "no user can come: say where, by --external ADDRESS";
        return Err(given.refuse(why).into());
    }
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

fn pieces(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|it| (1..=MOST).contains(it));
    number.ok_or_else(|| format!("must be a whole number from 1 to {MOST}"))
}

/// A number of bytes, with KiB, MiB or GiB, or without.
fn bytes(text: &str) -> Result<u32, String> {
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
