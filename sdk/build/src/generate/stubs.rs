//! Messages, clients and servers, as prost and tonic write them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost_reflect::DescriptorPool;
use tonic_prost_build::FileDescriptorSet;

use super::names::Places;
use crate::error::{Error, Errors};
use crate::rules::Sources;

/// The files for which code is to be written: a project's, without those of other crates.
pub(super) fn own(
    pool: &DescriptorPool,
    sources: &Sources,
    places: &Places<'_>,
) -> Result<FileDescriptorSet, Errors> {
    let mut set = FileDescriptorSet::decode(&*pool.encode_to_vec())
        .map_err(|error| Error::new(format!("the descriptors cannot be read back: {error}")))?;
    set.file
        .retain(|file| sources.0.contains_key(file.name()) && places.is_here(file.package()));
    Ok(set)
}

/// What prost writes, by the names of its files. It writes into a folder of its own, because what
/// an earlier build left must not be taken for what this one wrote.
pub(super) fn generate(
    tonic: tonic_prost_build::Builder,
    set: FileDescriptorSet,
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
        .compile_fds(set)
        .map_err(|error| failed("cannot be filled", error))?;
    let read = || {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
        fs::remove_dir_all(&folder)?;
        Ok(files)
    };
    read().map_err(|error| failed("cannot be read", error))
}
