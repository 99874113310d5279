//! Rust's text as a row of names and signs. Comments, texts, numbers and lifetimes are left out,
//! and so is what stands under `#[cfg(test)]`.

/// A name or a sign, and its line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword.
    Name(String),
    /// `::`.
    PathSeparator,
    /// Any other sign.
    Sign(char),
}

/// The tokens of a whole file.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        rest: text,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.step() {}
    lexer.tokens
}

/// The tokens without those of items under `#[cfg(test)]`, and the names of the modules in other
/// files that stand under it.
pub(super) fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    while let Some(token) = tokens.next() {
        kept.push(token);
        let tail = kept
            .len()
            .checked_sub(attribute.len())
            .map(|start| &kept[start..]);
        let is_test = tail.is_some_and(|tail| tail.iter().map(Token::text).eq(attribute));
        if !is_test {
            continue;
        }
        kept.truncate(kept.len() - attribute.len());
        let mut depth = 0_usize;
        let mut item = Vec::new();
        for token in tokens.by_ref() {
            let text = token.text();
            item.push(text.clone());
            match text.as_str() {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (text == ";" || text == "}") {
                break;
            }
        }
        if let [.., keyword, name, end] = item.as_slice()
            && keyword == "mod"
            && end == ";"
        {
            modules.push(name.clone());
        }
    }
    (kept, modules)
}

impl Token {
    pub(super) fn text(&self) -> String {
        match &self.kind {
            Kind::Name(name) => name.clone(),
            Kind::PathSeparator => "::".to_owned(),
            Kind::Sign(sign) => sign.to_string(),
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    /// Reads on; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else {
            return false;
        };
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some(length) = literal(self.rest) {
            self.skip(length);
        } else if first.is_alphabetic() || first == '_' {
            let raw = self.rest.strip_prefix("r#").unwrap_or(self.rest);
            let end = raw.find(|it: char| !it.is_alphanumeric() && it != '_');
            let name = &raw[..end.unwrap_or(raw.len())];
            let length = self.rest.len() - raw.len() + name.len();
            self.push(Kind::Name(name.to_owned()), length);
        } else if self.rest.starts_with("::") {
            self.push(Kind::PathSeparator, 2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.push(Kind::Sign(first), first.len_utf8());
        }
        true
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let line = self.line;
        self.tokens.push(Token { kind, line });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (skipped, rest) = self.rest.split_at(length);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }
}

/// The length of a comment, with the comments in it.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of the text, character, lifetime or number that stands here, if one does.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix);
        rest.is_some_and(|rest| {
            let quoted = rest.trim_start_matches('#');
            let hashed = quoted.len() < rest.len();
            quoted.starts_with('"') && (!hashed || prefix.ends_with('r'))
        })
    });
    if let Some(prefix) = prefix {
        return Some(quoted(text, prefix));
    }
    let rest = text.strip_prefix('b').unwrap_or(text);
    let offset = text.len() - rest.len();
    if let Some(rest) = rest.strip_prefix('\'') {
        return Some(offset + 1 + character_or_lifetime(rest));
    }
    let digits = text.starts_with(|it: char| it.is_ascii_digit());
    let end = text.find(|it: char| !it.is_alphanumeric() && it != '_');
    digits.then_some(end.unwrap_or(text.len()))
}

fn quoted(text: &str, prefix: &str) -> usize {
    let hashes = text[prefix.len()..]
        .chars()
        .take_while(|it| *it == '#')
        .count();
    let start = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        let found = text[start..].find(&end);
        return found.map_or(text.len(), |found| start + found + end.len());
    }
    let mut escaped = false;
    for (at, character) in text[start..].char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return start + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// What follows a single quote: a character up to its closing quote, or a lifetime's name.
fn character_or_lifetime(rest: &str) -> usize {
    if let Some(escape) = rest.strip_prefix('\\') {
        // The escaped character may itself be a quote.
        let skipped = escape.chars().next().map_or(0, char::len_utf8);
        let closing = escape[skipped..].find('\'');
        return closing.map_or(rest.len(), |closing| 1 + skipped + closing + 1);
    }
    let mut characters = rest.char_indices();
    characters.next();
    match characters.next() {
        Some((at, '\'')) => at + 1,
        _ => rest
            .find(|it: char| !it.is_alphanumeric() && it != '_')
            .unwrap_or(rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(text).iter().map(Token::text).collect()
    }

    #[test]
    fn what_is_no_code_is_left_out() {
        let text = r####"
            // crate::a
            /* crate::b /* crate::c */ crate::d */
            let x = "crate::e \" crate::f"; let y = r#"crate::g " crate::h"#;
            let z = b"crate::i"; let q = '"'; let r = '\''; let n = 1_000u64;
            fn f<'a>(x: &'a str) {} r#type::k
        "####;
        let names: Vec<String> = texts(text).into_iter().filter(|it| it.len() > 1).collect();
        assert_eq!(
            names,
            [
                "let", "let", "let", "let", "let", "let", "fn", "str", "type", "::"
            ]
        );
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let found = tokens("/*\n\n*/ \"\n\" a\nb");
        let lines: Vec<(String, usize)> = found.iter().map(|it| (it.text(), it.line)).collect();
        assert_eq!(lines, [("a".to_owned(), 4), ("b".to_owned(), 5)]);
    }

    #[test]
    fn code_for_tests_is_left_out_and_its_files_named() {
        let text = "a; #[cfg(test)] mod tests { use b; mod c { d } } e; \
                    #[cfg(test)] pub(crate) mod fakes; #[cfg(test)] use f::{g, h}; i";
        let (kept, modules) = without_tests(tokens(text));
        let kept: Vec<String> = kept
            .iter()
            .map(Token::text)
            .filter(|it| it != ";")
            .collect();
        assert_eq!(kept, ["a", "e", "i"]);
        assert_eq!(modules, ["fakes"]);
    }
}
