//! Which format a reader prefers (RFC 9110 §12.5.1), as far as it matters between the two there are.

/// Does this `accept` header want `OpenMetrics` rather than plain text? Whoever wants both alike gets
/// it, since it says more.
pub(super) fn wants_openmetrics(accept: &str) -> bool {
    let (mut open, mut plain) = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut quality = 1_000;
        let mut version = None;
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => quality = thousandths(value.trim()),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match name.as_str() {
            "application/openmetrics-text" if version.is_none_or(|it| it == "1.0.0") => {
                open = open.max(quality);
            }
            "text/plain" | "text/*" => plain = plain.max(quality),
            _ => {}
        }
    }
    open > 0 && open >= plain
}

/// A weight from 0 to 1 with at most three digits; what is none counts as nothing.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let short = fraction.len() <= 3 && fraction.bytes().all(|it| it.is_ascii_digit());
    match (whole, format!("{fraction:0<3}").parse::<u32>()) {
        ("0", Ok(fraction)) if short => fraction,
        ("1", Ok(0)) if short => 1_000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for wants in [
            prometheus,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8",
            "text/plain, application/openmetrics-text",
            "text/plain;q=0.5, application/openmetrics-text;q=0.501",
        ] {
            assert!(wants_openmetrics(wants), "{wants}");
        }
        for does_not in [
            "",
            "*/*",
            "text/plain",
            "application/json",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "application/openmetrics-text;q=0.4, text/plain;q=0.5",
            "application/openmetrics-text;q=1.1",
        ] {
            assert!(!wants_openmetrics(does_not), "{does_not}");
        }
    }
}
