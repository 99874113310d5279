//! Loads `.proto` files and what they import. Each file is compiled for itself, so that one that
//! is wrong does not hide what is wrong in another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::FileDescriptorProto;
use protox::file::{File, FileResolver, GoogleFileResolver};
use sidelane_proto::model::error::nearest;

use super::diagnose;
use crate::error::{Error, Place};
use crate::rules::{Source, Sources, place_of};

/// The file that brings our options; it is always there.
pub(super) const OPTIONS: &str = "sidelane/routing/v1/routing.proto";
/// How deep folders are looked into; deeper is a loop of links.
const DEPTH_LIMIT: usize = 64;
/// The number of field `dependency` in descriptor.proto.
const DEPENDENCY: i32 = 3;

/// What was loaded.
pub(super) struct Loaded {
    /// Every file that is right in itself.
    pub(super) pool: DescriptorPool,
    /// The texts of a project's files.
    pub(super) sources: Sources,
    /// What was read; what is in there decides.
    pub(super) watched: BTreeSet<PathBuf>,
    /// What is wrong with the others.
    pub(super) errors: Vec<Error>,
}

pub(super) fn load(folders: &[PathBuf], files: &[PathBuf], includes: &[PathBuf]) -> Loaded {
    let mut loader = Loader {
        named: BTreeMap::new(),
        folders: folders.iter().chain(includes).cloned().collect(),
        states: HashMap::new(),
        way: Vec::new(),
        loaded: Loaded {
            pool: DescriptorPool::new(),
            sources: Sources::default(),
            watched: BTreeSet::new(),
            errors: Vec::new(),
        },
    };
    for folder in folders {
        loader.find(folder);
    }
    for file in files {
        loader.name(file);
    }
    let names: Vec<_> = loader.named.keys().cloned().collect();
    for name in names {
        loader.add(&name);
    }
    loader.loaded
}

struct Loader {
    /// The files that are to be compiled, by the names under which they are imported.
    named: BTreeMap<String, PathBuf>,
    /// Where imports are looked for.
    folders: Vec<PathBuf>,
    states: HashMap<String, State>,
    /// The files that are being loaded, each imported by the one before.
    way: Vec<String>,
    loaded: Loaded,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Good,
    Bad,
}

impl Loader {
    /// Notes every `.proto` file of a folder that was named.
    fn find(&mut self, folder: &Path) {
        if !self.look(folder, folder, 0) {
            self.refuse(folder, "this folder has no .proto file".to_owned());
        }
    }

    /// Notes those in and below `folder`. False where there is none, and no error either.
    fn look(&mut self, root: &Path, folder: &Path, depth: usize) -> bool {
        self.loaded.watched.insert(folder.to_owned());
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.refuse(folder, format!("this folder cannot be read: {error}"));
                return true;
            }
        };
        if depth > DEPTH_LIMIT {
            let text = format!("folders are more than {DEPTH_LIMIT} deep here: is a link a loop?");
            self.refuse(folder, text);
            return true;
        }
        entries.sort_by_key(fs::DirEntry::path);
        let mut found = false;
        for path in entries.iter().map(fs::DirEntry::path) {
            if path.is_dir() {
                found |= self.look(root, &path, depth + 1);
            } else if path.extension().is_some_and(|it| it == "proto") {
                self.take(root, &path);
                found = true;
            }
        }
        found
    }

    /// A single file, which some folder must hold.
    fn name(&mut self, path: &Path) {
        let root = self.folders.iter().find(|it| path.starts_with(it)).cloned();
        match root {
            Some(root) => self.take(&root, path),
            None => self.refuse(
                path,
                "is below no folder that imports are looked for in; add that folder with \
                 `.include(…)`"
                    .to_owned(),
            ),
        }
    }

    fn take(&mut self, root: &Path, path: &Path) {
        let inner = path.strip_prefix(root).unwrap_or(path);
        let parts: Option<Vec<_>> = inner.iter().map(|part| part.to_str()).collect();
        let Some(parts) = parts else {
            return self.refuse(path, "its name is not UTF-8".to_owned());
        };
        let name = parts.join("/");
        // People who vendor what is built in may have another version of it.
        if bundled(&name).is_some() {
            return;
        }
        if let Some(other) = self.named.get(&name) {
            if other != path {
                let other = other.display();
                let text = format!(
                    "is imported as `{name}`, and so is {other}; give one of them another name"
                );
                self.refuse(path, text);
            }
            return;
        }
        self.named.insert(name, path.to_owned());
    }

    /// Loads a file and what it imports; false where that cannot be, and why is noted.
    fn add(&mut self, name: &str) -> bool {
        match self.states.get(name) {
            Some(State::Good) => return true,
            Some(State::Bad | State::Open) => return false,
            None => {}
        }
        self.states.insert(name.to_owned(), State::Open);
        self.way.push(name.to_owned());
        let good = self.load(name).is_some();
        self.way.pop();
        let state = if good { State::Good } else { State::Bad };
        self.states.insert(name.to_owned(), state);
        good
    }

    fn load(&mut self, name: &str) -> Option<()> {
        let file = match bundled(name) {
            Some(file) => file,
            None => self.parse(name)?,
        };
        let proto = file.file_descriptor_proto();
        let mut good = true;
        for (index, import) in proto.dependency.iter().enumerate() {
            good &= match self.trouble(proto, index) {
                None => self.add(import),
                Some(text) => {
                    let at = [DEPENDENCY, i32::try_from(index).unwrap_or(i32::MAX)];
                    let place = place_of(proto, &self.loaded.sources, &at);
                    self.loaded.errors.push(Error::at(place, text));
                    false
                }
            };
        }
        if !good {
            return None;
        }
        let added = self.loaded.pool.add_file_descriptor_proto(proto.clone());
        added
            .map_err(|error| {
                let error =
                    diagnose::descriptors(&error, proto, &self.loaded.sources, &self.loaded.pool);
                self.loaded.errors.push(error);
            })
            .ok()
    }

    /// Reads and parses a file of the project.
    fn parse(&mut self, name: &str) -> Option<File> {
        let path = self.path(name)?;
        self.loaded.watched.insert(path.clone());
        let text = match fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                self.refuse(&path, "is not UTF-8".to_owned());
                return None;
            }
            Err(error) => {
                self.refuse(&path, format!("cannot be read: {error}"));
                return None;
            }
        };
        let source = Source {
            path: path.display().to_string(),
            text,
        };
        let parsed = File::from_source(name, &source.text);
        let parsed = parsed.map_err(|error| {
            self.loaded.errors.push(diagnose::syntax(&error, &source));
        });
        self.loaded.sources.0.insert(name.to_owned(), source);
        parsed.ok()
    }

    /// The file that is imported by this name.
    fn path(&self, name: &str) -> Option<PathBuf> {
        if let Some(path) = self.named.get(name) {
            return Some(path.clone());
        }
        let mut paths = self.folders.iter().map(|folder| folder.join(name));
        paths.find(|path| path.is_file())
    }

    /// What is wrong with an import before it is followed.
    fn trouble(&self, file: &FileDescriptorProto, index: usize) -> Option<String> {
        let import = &file.dependency[index];
        if file.dependency[..index].contains(import) {
            return Some(format!("`{import}` is imported twice"));
        }
        if let Some(start) = self.way.iter().position(|name| name == import) {
            let way = self.way[start..].join(" -> ");
            return Some(format!("files import each other: {way} -> {import}"));
        }
        if bundled(import).is_some() || self.path(import).is_some() {
            return None;
        }
        let folders: Vec<_> = self
            .folders
            .iter()
            .map(|it| it.display().to_string())
            .collect();
        let known = self.named.keys().map(String::as_str).chain([OPTIONS]);
        let meant = nearest(import, known);
        let meant = meant.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        Some(format!(
            "`{import}` is not found{meant} (imports are looked for in {})",
            folders.join(", ")
        ))
    }

    fn refuse(&mut self, path: &Path, text: String) {
        let place = Place {
            file: path.display().to_string(),
            position: None,
        };
        self.loaded.errors.push(Error::at(place, text));
    }
}

/// What needs no folder: our options, and protobuf's own files.
fn bundled(name: &str) -> Option<File> {
    if name == OPTIONS {
        return File::from_source(name, sidelane_proto::ROUTING_PROTO).ok();
    }
    GoogleFileResolver::new().open_file(name).ok()
}
