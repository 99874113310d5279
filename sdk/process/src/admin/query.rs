//! Reads the query of a URL (WHATWG URL Standard, application/x-www-form-urlencoded).

/// The pairs of a query, decoded. `None` if an escape is broken or the result is not UTF-8.
pub(super) fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_in_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("path=%2Fshop.v1.Orders%2fGet&for=outbound&for=in+bound&empty&&x=a=b"),
            Some(vec![
                pair("path", "/shop.v1.Orders/Get"),
                pair("for", "outbound"),
                pair("for", "in bound"),
                pair("empty", ""),
                pair("x", "a=b"),
            ])
        );
        assert_eq!(pairs(""), Some(vec![]));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for query in ["a=%", "a=%2", "a=%zz", "a=%ff", "%=1"] {
            assert_eq!(pairs(query), None, "for {query:?}");
        }
    }
}
