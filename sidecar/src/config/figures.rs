//! Reads what is said of the figures and of the log of calls: the bounds of the histograms, which calls
//! are logged, and where.

use std::sync::Arc;

use sidelane_process::settings::{Flag, InvalidSetting, Origin, Settings, SettingsError};

use super::table::{ACCESS_LOG, ACCESS_LOG_FILE, DURATION_BUCKETS, SIZE_BUCKETS};
use super::users;
use crate::telemetry::{BOUNDS_LIMIT, Buckets, To, Which};

/// Nanoseconds in a second have so many digits behind the point.
const FRACTION: usize = 9;
/// The longest duration that is told from longer ones, in seconds: an hour.
const LONGEST: u64 = 3_600;

pub(super) fn buckets(settings: &Settings) -> Result<Buckets, InvalidSetting> {
    Ok(Buckets {
        durations: ascending(settings, &DURATION_BUCKETS, seconds)?,
        sizes: ascending(settings, &SIZE_BUCKETS, |text| {
            users::bytes(text).map(u64::from)
        })?,
    })
}

pub(super) fn access(settings: &Settings) -> Result<Option<(Which, To)>, SettingsError> {
    let which = settings.value(&ACCESS_LOG, which)?;
    let to = settings.value(&ACCESS_LOG_FILE, |text| {
        Ok::<_, String>(match text {
            "-" => To::Stdout,
            path => To::File(path.into()),
        })
    })?;
    // What is said of a log that is off is a mistake, and is not passed over.
    if which.is_none()
        && let Some(item) = settings.item(&ACCESS_LOG_FILE)
        && *item.origin() != Origin::Default
    {
        let why = "no calls are logged: say which, by --access-log errors, all or a share";
        return Err(item.refuse(why).into());
    }
    Ok(which.map(|which| (which, to)))
}

fn which(text: &str) -> Result<Option<Which>, String> {
    let share = || {
        let digits = text.bytes().all(|it| it.is_ascii_digit() || it == b'.');
        let share: f64 = text.parse().ok().filter(|_| digits)?;
        (share > 0.0 && share <= 1.0).then_some(Which::Share(share))
    };
    match text {
        "off" => Ok(None),
        "errors" => Ok(Some(Which::Errors)),
        "all" => Ok(Some(Which::Share(1.0))),
        _ => share().map(Some).ok_or_else(|| {
            "must be off, errors, all, or a share of the calls above 0 and up to 1, such as 0.01"
                .to_owned()
        }),
    }
}

/// Bounds that are not in order would put values where nobody looks for them.
fn ascending(
    settings: &Settings,
    flag: &Flag,
    read: fn(&str) -> Result<u64, String>,
) -> Result<Arc<[u64]>, InvalidSetting> {
    let mut bounds: Vec<u64> = Vec::new();
    for item in settings.items(flag) {
        let bound = item.parse(read)?;
        if bounds.last().is_some_and(|last| *last >= bound) {
            return Err(item.refuse("is not above the bound before it; write them in order"));
        }
        if bounds.len() == BOUNDS_LIMIT {
            return Err(item.refuse(format!("more than {BOUNDS_LIMIT} bounds")));
        }
        bounds.push(bound);
    }
    Ok(bounds.into())
}

/// Decimal seconds, exactly, as nanoseconds.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || {
        format!(
            "must be seconds above 0 and up to {LONGEST}, with at most {FRACTION} digits behind the \
             point, such as 0.25"
        )
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > FRACTION {
        return Err(bad());
    }
    let number = format!("{whole}{fraction:0<FRACTION$}").parse::<u64>();
    let most = LONGEST * 1_000_000_000;
    number
        .ok()
        .filter(|it| (1..=most).contains(it))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sidelane_process::settings::{Environment, Start};

    use super::*;
    use crate::config::Config;

    #[test]
    fn calls_are_logged_as_it_is_said() {
        for (text, expected) in [
            ("off", None),
            ("errors", Some(Which::Errors)),
            ("all", Some(Which::Share(1.0))),
            ("0.25", Some(Which::Share(0.25))),
            ("1", Some(Which::Share(1.0))),
        ] {
            assert_eq!(which(text), Ok(expected), "{text}");
        }
        for bad in ["", "on", "0", "1.1", "-1", "NaN", "1e-3", "5%"] {
            assert!(which(bad).is_err(), "{bad}");
        }
        assert_eq!(
            read("--access-log-file", "/var/log/calls").unwrap_err(),
            "--access-log-file \"/var/log/calls\" (command line): no calls are logged: say which, by \
             --access-log errors, all or a share"
        );
    }

    fn read(flag: &str, text: &str) -> Result<Buckets, String> {
        let environment = Environment::new([("HOME", "/home/me")]);
        let loaded = Config::load([flag, text], &environment, |_: &Path| Ok(String::new()));
        match loaded.map_err(|error| error.to_string())? {
            Start::Run(loaded) => Ok(loaded.config.buckets),
            Start::Print(text) => Err(text),
        }
    }

    #[test]
    fn bounds_are_in_order_and_not_too_many() {
        let error = |flag: &str, text: &str| read(flag, text).unwrap_err();
        let order = "is not above the bound before it; write them in order";
        assert_eq!(
            error("--duration-buckets", "0.1,0.1"),
            format!("--duration-buckets \"0.1\" (command line): {order}")
        );
        assert_eq!(
            error("--size-buckets", "1KiB,1023"),
            format!("--size-buckets \"1023\" (command line): {order}")
        );
        let bounds = |count: usize| {
            let bounds: Vec<_> = (1..=count).map(|bound| bound.to_string()).collect();
            bounds.join(",")
        };
        let most = read("--size-buckets", &bounds(BOUNDS_LIMIT)).unwrap();
        assert_eq!(most.sizes.len(), BOUNDS_LIMIT);
        let said = error("--duration-buckets", &bounds(BOUNDS_LIMIT + 1));
        assert!(said.ends_with(": more than 32 bounds"), "{said}");
    }

    #[test]
    fn seconds_are_read_exactly_and_refused_otherwise() {
        let cases = [
            ("0.0005", 500_000),
            ("1", 1_000_000_000),
            ("2.5", 2_500_000_000),
            ("0.000000001", 1),
            ("3600", 3_600_000_000_000),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "0",
            "0.0",
            ".5",
            "1.",
            "-1",
            "1e3",
            "1s",
            "3600.1",
            "0.0000000001",
            "1.2.3",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
