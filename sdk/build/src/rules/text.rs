//! Descriptors say where an option begins, not where the fields inside its braces are. So the
//! text of the option is read once more, as protobuf's text format
//! (<https://protobuf.dev/reference/protobuf/textformat-spec/>), only as far as the places of its
//! fields ask for. The compiler has accepted the text before; whatever is unexpected here ends the
//! reading, and the option's own place serves.

/// A field inside an option, and where it begins, in bytes from the option's start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a str,
    pub(crate) offset: usize,
    pub(crate) values: Vec<Value<'a>>,
}

/// A value, or one of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) offset: usize,
    /// As it is written; empty for messages.
    pub(crate) text: &'a str,
    pub(crate) fields: Vec<Field<'a>>,
}

/// A step of a path such as `retry.on[0]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step<'a> {
    pub(crate) name: &'a str,
    pub(crate) index: Option<usize>,
}

/// The steps of a path.
pub(crate) fn steps(path: &str) -> Vec<Step<'_>> {
    path.split('.')
        .map(|step| match step.split_once('[') {
            Some((name, index)) => Step {
                name,
                index: index.trim_end_matches(']').parse().ok(),
            },
            None => Step {
                name: step,
                index: None,
            },
        })
        .collect()
}

/// The fields of `option (…) = {…};`; none where its value is no message.
pub(crate) fn fields(option: &str) -> Vec<Field<'_>> {
    let mut tokens = tokens(option);
    tokens.reverse();
    let mut reader = Reader {
        text: option,
        tokens,
    };
    while let Some(token) = reader.tokens.pop() {
        if reader.is(token, "=") {
            break;
        }
    }
    match reader.tokens.pop() {
        Some(open) if reader.is(open, "{") => reader.message("}"),
        _ => Vec::new(),
    }
}

/// The deepest place that is there of those that `steps` lead through.
pub(crate) fn find(fields: &[Field<'_>], steps: &[Step<'_>]) -> Option<usize> {
    let (step, rest) = steps.split_first()?;
    let named = || fields.iter().filter(|field| field.name == step.name);
    let value = match step.index {
        None => named()
            .next()
            .map(|field| (field.offset, field.values.first())),
        Some(index) => {
            let values = named().flat_map(|field| &field.values);
            let value = values.clone().nth(index);
            value.map(|value| (value.offset, Some(value)))
        }
    };
    let (offset, value) = value?;
    let deeper = value.and_then(|value| find(&value.fields, rest));
    Some(deeper.unwrap_or(offset))
}

/// A piece of text: where, and how long.
#[derive(Clone, Copy)]
struct Token {
    offset: usize,
    length: usize,
}

struct Reader<'a> {
    text: &'a str,
    /// The next one is the last.
    tokens: Vec<Token>,
}

impl<'a> Reader<'a> {
    fn text(&self, token: Token) -> &'a str {
        &self.text[token.offset..token.offset + token.length]
    }

    fn is(&self, token: Token, text: &str) -> bool {
        self.text(token) == text
    }

    fn next_is(&self, text: &str) -> bool {
        self.tokens
            .last()
            .is_some_and(|token| self.is(*token, text))
    }

    fn message(&mut self, close: &str) -> Vec<Field<'a>> {
        let mut fields = Vec::new();
        while let Some(token) = self.tokens.pop() {
            if self.is(token, close) {
                break;
            }
            if self.is(token, ",") || self.is(token, ";") {
                continue;
            }
            let name = if self.is(token, "[") {
                self.extension()
            } else {
                self.text(token)
            };
            if self.next_is(":") {
                self.tokens.pop();
            }
            let Some(values) = self.values() else { break };
            fields.push(Field {
                name,
                offset: token.offset,
                values,
            });
        }
        fields
    }

    /// The name between brackets; rules have none, so its parts do not matter.
    fn extension(&mut self) -> &'a str {
        let mut name = "";
        while let Some(token) = self.tokens.pop() {
            if self.is(token, "]") {
                break;
            }
            name = self.text(token);
        }
        name
    }

    fn values(&mut self) -> Option<Vec<Value<'a>>> {
        if !self.next_is("[") {
            return Some(vec![self.value()?]);
        }
        self.tokens.pop();
        let mut values = Vec::new();
        loop {
            if self.next_is("]") {
                self.tokens.pop();
                return Some(values);
            }
            if self.next_is(",") {
                self.tokens.pop();
                continue;
            }
            values.push(self.value()?);
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        let token = self.tokens.pop()?;
        let text = self.text(token);
        let fields = match text {
            "{" => self.message("}"),
            "<" => self.message(">"),
            "-" => {
                self.tokens.pop()?;
                Vec::new()
            }
            _ => Vec::new(),
        };
        // Strings that follow each other are one.
        let is_string = |text: &str| text.starts_with(['"', '\'']);
        while is_string(text)
            && let Some(next) = self.tokens.last()
            && is_string(self.text(*next))
        {
            self.tokens.pop();
        }
        Some(Value {
            offset: token.offset,
            text: if matches!(text, "{" | "<") { "" } else { text },
            fields,
        })
    }
}

/// Words, strings and single signs; comments and space are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut offset = 0;
    while let Some(first) = text[offset..].chars().next() {
        let rest = &text[offset..];
        let length = if first.is_whitespace() {
            offset += first.len_utf8();
            continue;
        } else if first == '#' || rest.starts_with("//") {
            offset += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            offset += rest.find("*/").map_or(rest.len(), |end| end + 2);
            continue;
        } else if is_word(first) {
            rest.find(|it| !is_word(it)).unwrap_or(rest.len())
        } else if matches!(first, '"' | '\'') {
            string(rest, first)
        } else {
            first.len_utf8()
        };
        tokens.push(Token { offset, length });
        offset += length;
    }
    tokens
}

/// Names, and numbers with a point.
fn is_word(it: char) -> bool {
    it.is_alphanumeric() || matches!(it, '_' | '.')
}

/// The length of a string, its quotes included.
fn string(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, it) in text.char_indices().skip(1) {
        match it {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if it == quote => return offset + it.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The byte at which a line begins, counted from 0.
pub(crate) fn line_start(text: &str, line: usize) -> Option<usize> {
    match line.checked_sub(1) {
        None => Some(0),
        Some(before) => text.match_indices('\n').nth(before).map(|(end, _)| end + 1),
    }
}

/// Line and column of a byte.
pub(crate) fn position(text: &str, offset: usize) -> (u32, u32) {
    let before = &text[..offset];
    let line = before.matches('\n').count();
    let column = offset - before.rfind('\n').map_or(0, |end| end + 1);
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    (number(line), number(column))
}

/// How many characters the first bytes of a line are; people and editors count those.
pub(crate) fn characters(text: &str, line: u32, bytes: u32) -> u32 {
    let count = || {
        let start = line_start(text, usize::try_from(line).ok()?)?;
        let end = start + usize::try_from(bytes).ok()?;
        u32::try_from(text.get(start..end)?.chars().count()).ok()
    };
    count().unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTION: &str = r#"option (sidelane.routing.v1.service) = {
        connection: INTERNAL, lane: "gen" 'eral' // lane: "other"
        /* retry { on: "X" } */
        retry { attempts: -1 on: ["ABORTED", "UNAVAILABLE"]; on: "INTERNAL" }
        # secure: false
        secure: true
        [a.b]: < x: 1 >
    };"#;

    fn found(path: &str) -> Option<&'static str> {
        let fields = fields(OPTION);
        let offset = find(&fields, &steps(path))?;
        let rest = &OPTION[offset..];
        Some(&rest[..rest.find([':', ',', ' ', ']', '\n']).unwrap_or(rest.len())])
    }

    #[test]
    fn fields_are_found_where_they_are() {
        for (path, expected) in [
            ("connection", Some("connection")),
            ("lane", Some("lane")),
            ("retry", Some("retry")),
            ("retry.attempts", Some("attempts")),
            ("retry.on[0]", Some("\"ABORTED\"")),
            ("retry.on[1]", Some("\"UNAVAILABLE\"")),
            ("retry.on[2]", Some("\"INTERNAL\"")),
            ("secure", Some("secure")),
            // What is not there is shown by what holds it.
            ("retry.backoff", Some("retry")),
            ("timeout", None),
        ] {
            assert_eq!(found(path), expected, "{path}");
        }
    }

    #[test]
    fn values_are_given_as_they_are_written() {
        let fields = fields(OPTION);
        let names: Vec<_> = fields.iter().map(|field| field.name).collect();
        assert_eq!(names, ["connection", "lane", "retry", "secure", "a.b"]);
        assert_eq!(fields[0].values[0].text, "INTERNAL");
        assert_eq!(fields[4].values[0].fields[0].name, "x");
        assert!(super::fields("option deprecated = true;").is_empty());
    }

    proptest! {
        /// Any text is read to its end, and offsets lie in it.
        #[test]
        fn no_text_is_too_odd(text in "[a-z=:{}<>\\[\\]\"'#/*,;. \né-]{0,60}") {
            fn inside(fields: &[Field<'_>], length: usize) -> bool {
                fields.iter().all(|field| {
                    field.offset < length
                        && field.values.iter().all(|value| inside(&value.fields, length))
                })
            }
            let option = format!("option x = {{{text}");
            prop_assert!(inside(&fields(&option), option.len()));
        }
    }
}
