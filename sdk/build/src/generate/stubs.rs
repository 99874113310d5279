//! Messages, clients and servers, as prost and tonic write them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_reflect::DescriptorPool;
use tonic_prost_build::FileDescriptorSet;

use super::names::{self, Places};
use crate::error::{Error, Errors};
use crate::rules::Sources;

/// What prost is given, and what of its output is not wanted.
pub(super) struct Input {
    set: FileDescriptorSet,
    others: BTreeSet<String>,
}

/// All files: prost looks into the messages that others use, also where it writes nothing for
/// them. What it writes for the packages of others is left out, and services of theirs are not
/// even shown to it.
pub(super) fn input(
    pool: &DescriptorPool,
    sources: &Sources,
    places: &Places<'_>,
) -> Result<Input, Errors> {
    let mut set = FileDescriptorSet::decode(&*pool.encode_to_vec())
        .map_err(|error| Error::new(format!("the descriptors cannot be read back: {error}")))?;
    let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
    for file in &mut set.file {
        let name = format!("{}.rs", names::file(file.package()));
        if sources.0.contains_key(file.name()) && places.is_here(file.package()) {
            own.insert(name);
        } else {
            file.service.clear();
            // It is empty, unless somebody asks tonic for the well-known types.
            if file.package() != "google.protobuf" {
                others.insert(name);
            }
        }
    }
    others.retain(|name| !own.contains(name));
    Ok(Input { set, others })
}

/// What prost writes, by the names of its files. It writes into a folder of its own, because what
/// an earlier build left must not be taken for what this one wrote.
pub(super) fn generate(
    tonic: tonic_prost_build::Builder,
    input: Input,
    out: &Path,
) -> Result<BTreeMap<String, Vec<u8>>, Errors> {
    let folder = out.join(".sidelane-new");
    let failed = |what: &str, error: std::io::Error| {
        Errors::from(Error::new(format!("{} {what}: {error}", folder.display())))
    };
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| failed("cannot be emptied", error))?;
    }
    fs::create_dir_all(&folder).map_err(|error| failed("cannot be made", error))?;
    tonic
        .out_dir(&folder)
        .compile_fds(input.set)
        .map_err(|error| failed("cannot be filled", error))?;
    let read = || {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !input.others.contains(&name) {
                files.insert(name, fs::read(entry.path())?);
            }
        }
        fs::remove_dir_all(&folder)?;
        Ok(files)
    };
    read().map_err(|error| failed("cannot be read", error))
}
