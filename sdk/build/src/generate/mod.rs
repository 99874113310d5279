//! The way of a build script: load the files, check their rules, write code. Each step is a
//! module, in this order.

mod admission;
mod authorization;
mod clients;
mod diagnose;
mod load;
mod names;
mod routes;
mod stubs;
mod tree;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sidelane_proto::model::Validation;

use crate::error::{Error, Errors};
use crate::rules::{self, RuleSet};
use load::Loaded;
use names::Places;

/// The file that `sidelane::include_protos!` includes.
const ROOT: &str = "protos.rs";
/// The table and the descriptors.
const ROUTES: &str = "sidelane_routes.rs";
/// The descriptors of all files, with their options.
const DESCRIPTORS: &str = "sidelane_descriptors.binpb";

/// Begins a build: say where the protos are, then [`Builder::compile`].
///
/// ```no_run
/// // build.rs
/// fn main() -> Result<(), sidelane_build::Errors> {
///     sidelane_build::configure().protos(&["proto"]).compile()
/// }
/// ```
pub fn configure() -> Builder {
    Builder {
        folders: Vec::new(),
        files: Vec::new(),
        includes: Vec::new(),
        extern_paths: Vec::new(),
        validations: Vec::new(),
        out_dir: None,
        stubs: true,
        tonic: tonic_prost_build::configure().build_transport(false),
    }
}

/// What a build is to do.
#[must_use = "nothing is built before `compile`"]
pub struct Builder {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    includes: Vec<PathBuf>,
    extern_paths: Vec<(String, String)>,
    validations: Vec<Box<dyn Validation>>,
    out_dir: Option<PathBuf>,
    stubs: bool,
    tonic: tonic_prost_build::Builder,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct Built {
    /// The rules of all files, those of other crates included.
    pub rules: RuleSet,
    /// Every file and folder that was looked at: what is in them decides what is built.
    pub watched: BTreeSet<PathBuf>,
    /// Every file of this build in the output folder.
    pub files: BTreeSet<PathBuf>,
}

impl Builder {
    /// Compiles every `.proto` file in and below these folders. Files import each other by their
    /// paths from there.
    pub fn protos<P: AsRef<Path>>(mut self, folders: &[P]) -> Self {
        self.folders
            .extend(folders.iter().map(|it| it.as_ref().to_owned()));
        self
    }

    /// Compiles every `.proto` file in and below the folders of a list such as an environment
    /// variable holds, with colons between them; `variable` is its name. No list, and an empty
    /// one, is no folder.
    ///
    /// # Errors
    /// A path that is not absolute: cargo builds each crate in its own folder, so that it would
    /// mean another place than whoever wrote it thought of.
    pub fn protos_listed(self, variable: &str, list: Option<OsString>) -> Result<Self, Errors> {
        let list = list.unwrap_or_default();
        let folders = std::env::split_paths(&list).filter(|it| !it.as_os_str().is_empty());
        let folders: Vec<_> = folders.collect();
        let relative = folders.iter().filter(|folder| !folder.is_absolute());
        let relative = relative.map(|folder| {
            let folder = folder.display();
            Error::new(format!(
                "{variable}: `{folder}` is no absolute path, and cargo builds each crate in its own \
                 folder; say `$PWD/{folder}`"
            ))
        });
        Errors::none_of(relative.collect())?;
        Ok(self.protos(&folders))
    }

    /// Compiles one file, which is below a folder of [`Builder::include`].
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.files.push(path.as_ref().to_owned());
        self
    }

    /// Looks for imports in this folder too. What is imported from it is compiled, unless it is
    /// another crate's ([`Builder::extern_path`]).
    pub fn include(mut self, folder: impl AsRef<Path>) -> Self {
        self.includes.push(folder.as_ref().to_owned());
        self
    }

    /// Says that the protos of a package are compiled by another crate:
    /// `extern_path(".shop.v1", "::shop_protos::shop::v1")`. Nothing is generated for them here;
    /// their messages, lanes and classes are taken from there.
    pub fn extern_path(mut self, package: impl Into<String>, path: impl Into<String>) -> Self {
        let (package, path) = (package.into(), path.into());
        self.tonic = self.tonic.extern_path(&package, &path);
        self.extern_paths.push((package, path));
        self
    }

    /// Demands this of every rule, beside what Sidelane does. What it refuses stops the build.
    pub fn validation(mut self, validation: impl Validation + 'static) -> Self {
        self.validations.push(Box::new(validation));
        self
    }

    /// Generates `Bytes` instead of `Vec<u8>` for `bytes` fields that this path matches; `.` is
    /// all.
    pub fn bytes(mut self, path: impl AsRef<str>) -> Self {
        self.tonic = self.tonic.bytes(path);
        self
    }

    /// False: rules and their table only, no messages, clients and servers; for sidecars. True if
    /// nothing is said.
    pub fn stubs(mut self, stubs: bool) -> Self {
        self.stubs = stubs;
        self
    }

    /// Whatever else tonic's generator can be told.
    pub fn tonic(
        mut self,
        change: impl FnOnce(tonic_prost_build::Builder) -> tonic_prost_build::Builder,
    ) -> Self {
        self.tonic = change(self.tonic);
        self
    }

    /// Writes here instead of `OUT_DIR`. The folder is made if it is not there.
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// Builds, and tells cargo when to do it again. For build scripts.
    ///
    /// # Errors
    /// Everything that is wrong in the files, each with its place; or that something cannot be
    /// read or written.
    pub fn compile(self) -> Result<(), Errors> {
        let built = self.build()?;
        for path in &built.watched {
            println!("cargo:rerun-if-changed={}", path.display());
        }
        Ok(())
    }

    /// Builds.
    ///
    /// # Errors
    /// As [`Builder::compile`].
    pub fn build(self) -> Result<Built, Errors> {
        let out = self.out_dir.clone().map_or_else(out_dir, Ok)?;
        let loaded = load::load(&self.folders, &self.files, &self.includes);
        let rules = rules::read(&loaded.pool, &loaded.sources, &self.validations);
        let rules = match rules {
            Ok(rules) if loaded.errors.is_empty() => rules,
            Ok(_) => return Err(Errors::of(loaded.errors)),
            Err(wrong) => {
                let wrong = wrong.iter().cloned();
                return Err(Errors::of(loaded.errors.into_iter().chain(wrong)));
            }
        };
        let files = self.generate(&loaded, &rules, &out)?;
        let written = write::write(&out, &files)?;
        Ok(Built {
            rules,
            watched: loaded.watched,
            files: written,
        })
    }

    /// Everything that is to be in the output folder, by name.
    fn generate(
        &self,
        loaded: &Loaded,
        rules: &RuleSet,
        out: &Path,
    ) -> Result<BTreeMap<String, Vec<u8>>, Errors> {
        let places = Places::new(&self.extern_paths);
        let mut files = BTreeMap::new();
        let mut clients = BTreeMap::new();
        if self.stubs {
            let input = stubs::input(&loaded.pool, &loaded.sources, &places)?;
            files = stubs::generate(self.tonic.clone(), input, out)?;
            clients = clients::code(&mut files, rules, &loaded.pool, &places)?;
        }
        let mut packages = BTreeSet::new();
        for name in files.keys() {
            packages.insert(name.strip_suffix(".rs").unwrap_or(name).to_owned());
        }
        for (package, mut code) in routes::packages(rules, &places) {
            let module = names::file(&package);
            code.push_str(clients.get(&package).map_or("", String::as_str));
            files.insert(format!("{module}.routes.rs"), code.into_bytes());
            packages.insert(module);
        }
        let root = tree::root(&packages, &files);
        files.insert(ROOT.to_owned(), root.into_bytes());
        let table = routes::table(rules, &places);
        files.insert(ROUTES.to_owned(), table.into_bytes());
        files.insert(DESCRIPTORS.to_owned(), loaded.pool.encode_to_vec());
        Ok(files)
    }
}

fn out_dir() -> Result<PathBuf, Errors> {
    let folder = std::env::var_os("OUT_DIR").ok_or_else(|| {
        Error::new("OUT_DIR is not set: build scripts have it; elsewhere say `.out_dir(…)`")
    })?;
    Ok(PathBuf::from(folder))
}
