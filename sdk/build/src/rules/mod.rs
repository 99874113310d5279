//! Reads rules from descriptors: the lanes and classes that files define first, then each
//! service's rule, by the one check that everybody shares, and what only descriptors know. It
//! touches nothing that the process knows, so that two sets can be read and compared.

mod every;
mod hash;
mod place;
mod read;
pub(crate) mod text;

use prost_reflect::DescriptorPool;
use sidelane_proto::model::{Lane, OwnClass, Rule};

use crate::error::{Error, Errors};

pub(crate) use place::Sources;
#[cfg(feature = "generate")]
pub(crate) use place::{Source, place_at, place_of, text_of};
pub(crate) use read::read;

/// The rules of a set of files, and what they stand on.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    /// The rules, by file and in the order in which they stand there. Their origin is `file:line`.
    pub rules: Vec<Rule>,
    /// Lanes that the files define.
    pub lanes: Vec<Defined<Lane>>,
    /// Connection classes that the files define.
    pub classes: Vec<Defined<OwnClass>>,
    /// All services, also those without a rule.
    pub services: Vec<Service>,
}

/// What a file defines, and where: `file:line`.
#[derive(Debug, Clone)]
pub struct Defined<T> {
    /// What.
    pub what: T,
    /// Where.
    pub origin: String,
    /// The package of that file.
    pub package: String,
}

/// A service of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its full name, `shop.v1.Orders`.
    pub name: String,
    /// Its methods' names, in order.
    pub methods: Vec<String>,
    /// Where it is: `file:line`.
    pub origin: String,
}

impl RuleSet {
    /// The rule of this service, where it has one.
    #[must_use]
    pub fn rule(&self, service: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.service == service)
    }
}

/// Reads the rules of an encoded `google.protobuf.FileDescriptorSet` that holds all its imports,
/// as `buf build -o rules.binpb` writes it, or `protoc --include_imports --include_source_info
/// --descriptor_set_out`. Lines are known where the set has source info.
///
/// # Errors
/// Everything that is wrong with the rules; or that the bytes are no such set.
pub fn from_descriptor_set(set: &[u8]) -> Result<RuleSet, Errors> {
    let incomplete = |why: &dyn std::fmt::Display| {
        Error::new(format!(
            "this is no complete descriptor set: {why}; make it with `buf build -o rules.binpb`, or \
             with protoc's --include_imports"
        ))
    };
    // prost-reflect looks for the place of some mistakes in files that it does not hold yet, such as a
    // name that is there twice, and panics.
    let decoded = std::panic::catch_unwind(|| DescriptorPool::decode(set));
    let decoded = decoded.map_err(|_| incomplete(&"its names contradict each other"))?;
    let pool = decoded.map_err(|error| {
        let why =
            std::error::Error::source(&error).map_or_else(String::new, |why| format!(": {why}"));
        incomplete(&format_args!("{error}{why}"))
    })?;
    read(&pool, &Sources::default(), &[])
}
