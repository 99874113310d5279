//! Every path in a file, with `crate`, `self`, `super` and braces worked out.

use super::lexer::{Kind, Token};

/// Keywords that may stand before a path that begins with `::`.
const NOT_IN_PATHS: [&str; 14] = [
    "as", "break", "dyn", "else", "for", "if", "impl", "in", "match", "move", "mut", "return",
    "use", "while",
];

/// A path as it is meant, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What it begins at.
    pub(super) origin: Origin,
    /// Its names from there. A `*` is one of them.
    pub(super) names: Vec<String>,
    /// The line, from 1.
    pub(super) line: usize,
}

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The root of its own crate.
    OwnCrate,
    /// Another crate, or a name that is known there.
    Elsewhere,
}

/// The paths in a file that is this module of its crate.
pub(super) fn paths(tokens: &[Token], module: &[String]) -> Vec<Found> {
    let mut reader = Reader {
        tokens,
        at: 0,
        module: module.to_vec(),
        depth: 0,
        opened: Vec::new(),
        found: Vec::new(),
    };
    while reader.at < tokens.len() {
        reader.step();
    }
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    depth: usize,
    /// At which depths modules in this file were opened.
    opened: Vec<usize>,
    found: Vec<Found>,
}

impl Reader<'_> {
    fn step(&mut self) {
        match self.kind(0) {
            Some(Kind::Sign('{')) => {
                self.depth += 1;
                self.at += 1;
            }
            Some(Kind::Sign('}')) => {
                self.depth = self.depth.saturating_sub(1);
                if self.opened.last() == Some(&self.depth) {
                    self.opened.pop();
                    self.module.pop();
                }
                self.at += 1;
            }
            Some(Kind::Name(name)) if name == "mod" => self.inner_module(),
            // After a dot stands a field or a method.
            Some(Kind::Sign('.')) => self.at += if self.is_name(1) { 2 } else { 1 },
            Some(Kind::Name(name)) if NOT_IN_PATHS.contains(&name.as_str()) => self.at += 1,
            Some(Kind::Name(_) | Kind::PathSeparator) => self.tree(&[]),
            _ => self.at += 1,
        }
    }

    fn inner_module(&mut self) {
        if let (Some(Kind::Name(name)), Some(Kind::Sign('{'))) = (self.kind(1), self.kind(2)) {
            self.module.push(name.clone());
            self.opened.push(self.depth);
            self.depth += 1;
            self.at += 3;
        } else {
            self.at += 2;
        }
    }

    /// A path, and in a `use` what its braces hold.
    fn tree(&mut self, prefix: &[String]) {
        let mut names = prefix.to_vec();
        let line = self.tokens[self.at].line;
        if prefix.is_empty() && self.kind(0) == Some(&Kind::PathSeparator) {
            // A path from the crates themselves.
            self.at += 1;
        }
        loop {
            match self.kind(0).cloned() {
                Some(Kind::Name(name)) => {
                    names.push(name);
                    self.at += 1;
                }
                Some(Kind::Sign('*')) if !names.is_empty() => {
                    names.push("*".to_owned());
                    self.at += 1;
                }
                Some(Kind::Sign('{')) if !names.is_empty() => return self.branches(&names),
                _ => break,
            }
            let goes_on = self.kind(0) == Some(&Kind::PathSeparator)
                && !matches!(self.kind(1), Some(Kind::Sign('<')));
            if !goes_on {
                break;
            }
            self.at += 1;
        }
        self.note(&names, line);
    }

    fn branches(&mut self, prefix: &[String]) {
        self.at += 1;
        loop {
            match self.kind(0) {
                None => return,
                Some(Kind::Sign('}')) => {
                    self.at += 1;
                    return;
                }
                Some(Kind::Name(_)) if !self.is_alias() => self.tree(prefix),
                Some(Kind::Sign('*')) => {
                    let line = self.tokens[self.at].line;
                    let names: Vec<String> = [prefix, &["*".to_owned()]].concat();
                    self.note(&names, line);
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
    }

    /// Is this `as`, or the name behind it?
    fn is_alias(&self) -> bool {
        let is_as = |kind: Option<&Kind>| kind == Some(&Kind::Name("as".to_owned()));
        is_as(self.kind(0)) || is_as(self.at.checked_sub(1).map(|at| &self.tokens[at].kind))
    }

    fn note(&mut self, names: &[String], line: usize) {
        let mut base = self.module.clone();
        let mut names: Vec<String> = names.to_vec();
        let origin = match names.first().map(String::as_str) {
            Some("crate") => {
                names.remove(0);
                base.clear();
                Origin::OwnCrate
            }
            Some("self" | "super") => Origin::OwnCrate,
            _ => Origin::Elsewhere,
        };
        if origin == Origin::OwnCrate {
            while let Some("self" | "super") = names.first().map(String::as_str) {
                if names.remove(0) == "super" {
                    base.pop();
                }
            }
            base.append(&mut names);
            names = base;
        }
        // `use a::{self}` is `use a`.
        if names.last().is_some_and(|last| last == "self") {
            names.pop();
        }
        self.found.push(Found {
            origin,
            names,
            line,
        });
    }

    fn kind(&self, ahead: usize) -> Option<&Kind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    fn is_name(&self, ahead: usize) -> bool {
        matches!(self.kind(ahead), Some(Kind::Name(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::tokens;
    use super::*;

    fn own(text: &str) -> Vec<String> {
        let module = ["pool".to_owned(), "link".to_owned()];
        let found = paths(&tokens(text), &module);
        let own = found
            .into_iter()
            .filter(|found| found.origin == Origin::OwnCrate);
        own.map(|found| found.names.join("::")).collect()
    }

    #[test]
    fn paths_are_worked_out() {
        assert_eq!(own("use crate::call::Call;"), ["call::Call"]);
        assert_eq!(
            own("use super::key::Key; use self::x;"),
            ["pool::key::Key", "pool::link::x"]
        );
        assert_eq!(own("use super::super::balance;"), ["balance"]);
        assert_eq!(
            own("use crate::{balance::{Hub, self}, call as forward, stack::*};"),
            ["balance::Hub", "balance", "call", "stack::*"]
        );
        assert_eq!(
            own("let x = vec![crate::forward::f::<u8>(1)];"),
            ["forward::f"]
        );
        assert_eq!(
            own("fn f(x: &crate::stack::Stack) -> super::Y {}"),
            ["stack::Stack", "pool::Y"]
        );
        assert_eq!(
            own("mod inner { use super::super::key; } use super::key;"),
            ["pool::key"; 2]
        );
        assert_eq!(own("use crate::*; use crate as root;"), ["*", ""]);
        assert!(own("x.crate_name().self_test(); a::b::c").is_empty());
    }

    #[test]
    fn other_crates_are_kept_as_they_are_named() {
        let text = "use ::tonic::{transport::Channel, Status}; tokio::net::TcpStream::connect(x)";
        let found = paths(&tokens(text), &[]);
        let names: Vec<String> = found.iter().map(|found| found.names.join("::")).collect();
        assert!(
            names.contains(&"tonic::transport::Channel".to_owned()),
            "{names:?}"
        );
        assert!(names.contains(&"tonic::Status".to_owned()), "{names:?}");
        assert!(
            names.contains(&"tokio::net::TcpStream::connect".to_owned()),
            "{names:?}"
        );
    }
}
