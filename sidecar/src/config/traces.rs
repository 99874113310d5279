//! Reads where traces go, and which.

use sidelane_process::settings::{Flag, Origin, Settings, SettingsError};

use super::Traces;
use super::table::{OTLP, SAMPLE_ERRORS, SAMPLING};
use crate::telemetry::trace::{Ratio, collector_url};

pub(super) fn read(settings: &Settings) -> Result<Option<Traces>, SettingsError> {
    let url = settings.optional(&OTLP, collector_url)?;
    let share = settings.value(&SAMPLING, share)?;
    let errors = settings.switch(&SAMPLE_ERRORS)?;
    let Some(url) = url else {
        refuse_without_collector(settings)?;
        return Ok(None);
    };
    Ok(Some(Traces { url, share, errors }))
}

/// What is said of traces that go nowhere is a mistake, and is not passed over.
fn refuse_without_collector(settings: &Settings) -> Result<(), SettingsError> {
    const OF_TRACES: [&Flag; 2] = [&SAMPLING, &SAMPLE_ERRORS];
    let given = OF_TRACES.iter().filter_map(|flag| settings.item(flag));
    let mut said = given.filter(|item| *item.origin() != Origin::Default);
    match said.next() {
        None => Ok(()),
        Some(item) => Err(item
            .refuse("no traces leave this program: say where to, by --otlp URL")
            .into()),
    }
}

fn share(text: &str) -> Result<Ratio, &'static str> {
    let share = text.parse().ok().and_then(Ratio::new);
    share.ok_or("not a share of the traces; write a number from 0, none, to 1, all")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sidelane_process::settings::{Environment, Start};

    use super::*;
    use crate::config::Config;

    fn loaded(arguments: &[&str]) -> Result<Option<Traces>, String> {
        let environment = Environment::new([("HOME", "/home/me")]);
        let start = Config::load(arguments, &environment, |_: &Path| Ok(String::new()));
        match start.map_err(|error| error.to_string())? {
            Start::Run(loaded) => Ok(loaded.config.traces),
            Start::Print(text) => panic!("printed {text}"),
        }
    }

    #[test]
    fn where_traces_go_and_which_is_read_and_what_is_neither_is_refused() {
        let read = |arguments: &[&str]| loaded(arguments).unwrap();
        assert_eq!(read(&[]), None);
        let traces = |share: f64, errors| {
            Some(Traces {
                url: "http://[::1]:4317".to_owned(),
                share: Ratio::new(share).unwrap(),
                errors,
            })
        };
        let otlp = ["--otlp", "http://[::1]:4317/"];
        assert_eq!(read(&otlp), traces(0.01, false));
        let all = [&otlp[..], &["--sampling", "1", "--sample-errors"]].concat();
        assert_eq!(read(&all), traces(1.0, true));
        let wanted = "write http://HOST:PORT of a collector that takes OTLP over gRPC, such as \
                      http://127.0.0.1:4317";
        let cases = [
            ("127.0.0.1:4317", wanted.to_owned()),
            (
                "https://collector:4317",
                format!("TLS is not spoken to a collector; {wanted}"),
            ),
            (
                "http://collector",
                format!("the address \"collector\" has no port; write collector:PORT; {wanted}"),
            ),
            (
                "http://collector:4317/v1/traces",
                format!(
                    "the address \"collector:4317/v1/traces\" has more than a host and a port; {wanted}"
                ),
            ),
        ];
        for (url, reason) in cases {
            let expected = format!("--otlp {url:?} (command line): {reason}");
            assert_eq!(loaded(&["--otlp", url]), Err(expected));
        }
        for flag in ["--sampling=0.1", "--sample-errors=true"] {
            let said = loaded(&[flag]).unwrap_err();
            let why = "no traces leave this program: say where to, by --otlp URL";
            assert!(said.ends_with(why), "{said}");
        }
        for share in ["1.5", "-0.1", "all", "NaN"] {
            let expected = format!(
                "--sampling {share:?} (command line): not a share of the traces; write a number from 0, \
                 none, to 1, all"
            );
            let sampling = format!("--sampling={share}");
            assert_eq!(loaded(&["--otlp", "http://a:1", &sampling]), Err(expected));
        }
    }
}
