//! Reads where traces go, and which.

use sidelane_process::settings::{Flag, Origin, Settings, SettingsError};

use super::Traces;
use super::table::{OTLP, OTLP_SERVICE, SAMPLE_ERRORS, SAMPLING};
use crate::telemetry::trace::{Ratio, collector_url};

pub(super) fn read(settings: &Settings) -> Result<Option<Traces>, SettingsError> {
    let url = settings.optional(&OTLP, collector_url)?;
    let share = settings.value(&SAMPLING, share)?;
    let errors = settings.switch(&SAMPLE_ERRORS)?;
    let service = settings.optional(&OTLP_SERVICE, name)?;
    let Some(url) = url else {
        refuse_without_collector(settings)?;
        return Ok(None);
    };
    Ok(Some(Traces {
        url,
        share,
        errors,
        service,
    }))
}

/// What is said of traces that go nowhere is a mistake, and is not passed over.
fn refuse_without_collector(settings: &Settings) -> Result<(), SettingsError> {
    const OF_TRACES: [&Flag; 3] = [&SAMPLING, &SAMPLE_ERRORS, &OTLP_SERVICE];
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

/// The longest name of a service in traces, in bytes: it is sent with each batch of spans.
const NAME_LIMIT: usize = 255;

fn name(text: &str) -> Result<String, &'static str> {
    let wrong =
        text.trim().is_empty() || text.len() > NAME_LIMIT || text.contains(char::is_control);
    match wrong {
        false => Ok(text.to_owned()),
        true => Err("no name of a service; write up to 255 bytes, such as orders"),
    }
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
        let traces = |share: f64, errors, service: Option<&str>| {
            Some(Traces {
                url: "http://[::1]:4317".to_owned(),
                share: Ratio::new(share).unwrap(),
                errors,
                service: service.map(str::to_owned),
            })
        };
        let otlp = ["--otlp", "http://[::1]:4317/"];
        assert_eq!(read(&otlp), traces(0.01, false, None));
        let all = [&otlp[..], &["--sampling", "1", "--sample-errors"]].concat();
        assert_eq!(read(&all), traces(1.0, true, None));
        let named = [&all[..], &["--otlp-service", "orders"]].concat();
        assert_eq!(read(&named), traces(1.0, true, Some("orders")));
        for wrong in [" ", "a\tb", &"n".repeat(NAME_LIMIT + 1)] {
            let said = loaded(&[&otlp[..], &["--otlp-service", wrong]].concat()).unwrap_err();
            assert!(said.contains("no name of a service"), "{said}");
        }
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
        for flag in ["--sampling=0.1", "--sample-errors=true", "--otlp-service=x"] {
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
