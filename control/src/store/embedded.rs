//! The embedded store: one redb file, made durable by fsync at each commit. It never overwrites a
//! file that is not its own, newer than itself, or damaged, and never shares one with another
//! process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageError, TableDefinition, TableError, TableHandle,
};
use sidelane_proto::model::Generation;

use super::format::{
    node_key, read_node, read_node_key, read_rule, read_service_key, service_key, write_node,
    write_rule,
};
use super::write_behind::RESERVE;
use super::{Loaded, Secret, Store, StoreError, Writes};

/// Locked for as long as the process lives, also while the database is being opened anew.
const LOCK_FILE: &str = "control.lock";
/// Only the user who runs control may read what nodes say of themselves, and later keys.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// The newest format that this build reads. It writes this one, and a file of an older one becomes
/// one of this when it is opened: an older build would lose the rules that it does not know.
const FORMAT: u32 = 2;
/// The oldest format that is read: it has no rules.
const OLDEST_FORMAT: u32 = 1;
/// What a redb file begins with.
const MAGIC: [u8; 4] = *b"redb";
/// The database's cache, in bytes: all of it is read once, at the start.
const CACHE: usize = 1 << 20;
/// Entries of generations and of services that are kept. Past twice that, the lowest are removed:
/// generations of nodes that started longest ago, services that were first seen longest ago.
const KEPT_LIMIT: u64 = 65_536;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const NODES: TableDefinition<&str, &[u8]> = TableDefinition::new("nodes");
const GENERATIONS: TableDefinition<&str, u64> = TableDefinition::new("generations");
const SERVICES: TableDefinition<&str, u64> = TableDefinition::new("services");
/// The version that brought it, and the rule; empty where it was taken back.
const RULES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("rules");
/// What the certificate authority keeps, by its own keys. Made when there is something to keep, so
/// that a mesh without identity keeps a file as it was.
const AUTHORITY: TableDefinition<&str, &[u8]> = TableDefinition::new("authority");
const FORMAT_KEY: &str = "format";
const STORE_ID_KEY: &str = "store_id";
const COUNTER_KEY: &str = "counter";
const RULES_FLOOR_KEY: &str = "rules_floor";

/// A store in a file.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    store_id: Arc<str>,
    /// `None` after a failed write: redb does not go on after one, but opens again.
    database: Option<Database>,
    _lock: File,
}

impl Embedded {
    /// The file in the data folder.
    pub const FILE: &'static str = "control.redb";

    /// Opens the store in a folder, or makes both. Blocks.
    ///
    /// # Errors
    /// Another process has it, it is newer than this build, foreign or damaged, or the folder
    /// cannot be used.
    pub fn open(folder: &Path) -> Result<(Self, Loaded), StoreError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |reason| StoreError::Folder { path, reason }
        };
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(FOLDER_MODE).create(folder);
        made.map_err(unusable(folder))?;
        let path = folder.join(Self::FILE);
        let lock = lock(&folder.join(LOCK_FILE), &path)?;
        if !path.exists() {
            make(&path)?;
        }
        let database = open_database(&path)?;
        let damaged = |error: redb::Error| damaged(&path, error.to_string());
        let store_id = initialize(&path, &database)?;
        refuse_exposed(&path)?;
        let loaded = load(&path, &database, &store_id)?;
        let reserved = loaded.version + RESERVE;
        put_meta(&database, COUNTER_KEY, &reserved.to_le_bytes()).map_err(damaged)?;
        let store = Self {
            path,
            store_id,
            database: Some(database),
            _lock: lock,
        };
        Ok((store, loaded))
    }

    /// The database, opened again if the last write failed.
    fn database(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let database = open_database(&self.path)?;
                if initialize(&self.path, &database)? != self.store_id {
                    let path = self.path.clone();
                    return Err(StoreError::Foreign { path });
                }
                database
            }
        };
        Ok(self.database.insert(database))
    }
}

impl Store for Embedded {
    fn commit(&mut self, writes: &Writes) -> Result<(), StoreError> {
        let written = commit(self.database()?, writes);
        written.map_err(|error| {
            self.database = None;
            StoreError::Write {
                path: self.path.clone(),
                reason: error.to_string(),
            }
        })
    }
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// Takes the lock, and writes into the file who has it.
fn lock(path: &Path, store: &Path) -> Result<File, StoreError> {
    let unusable = |reason| StoreError::Folder {
        path: path.to_owned(),
        reason,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = match (read, holder.trim()) {
                (Ok(_), holder) if !holder.is_empty() => format!("process {holder}"),
                _ => "process unknown".to_owned(),
            };
            let path = store.to_owned();
            return Err(StoreError::InUse { path, holder });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // A note for the message above; without it, the other process is called unknown. On a full
    // disk it stays away, and that must not keep control from starting.
    let noted = file
        .set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::warn!(path = %path.display(), %error, "cannot note who holds the lock");
    }
    Ok(file)
}

/// Makes the file under another name first, so that a crash in the midst of it leaves no half a
/// store that would have to be refused.
fn make(path: &Path) -> Result<(), StoreError> {
    let unusable = |reason| StoreError::Folder {
        path: path.to_owned(),
        reason,
    };
    let draft = path.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        Ok(()) | Err(_) => {}
    }
    initialize(&draft, &open_database(&draft)?)?;
    std::fs::rename(&draft, path).map_err(unusable)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(unusable)
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let unusable = |reason: io::Error| StoreError::Folder {
        path: path.to_owned(),
        reason,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(unusable)?;
    let mut begin = Vec::new();
    let read = (&mut file).take(MAGIC.len() as u64).read_to_end(&mut begin);
    read.map_err(unusable)?;
    if !begin.is_empty() && begin != MAGIC {
        let path = path.to_owned();
        return Err(StoreError::Foreign { path });
    }
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder.create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
            path: path.to_owned(),
            holder: "process unknown".to_owned(),
        },
        DatabaseError::Storage(StorageError::Io(error)) if !is_content(&error) => {
            StoreError::Write {
                path: path.to_owned(),
                reason: error.to_string(),
            }
        }
        error => damaged(path, error.to_string()),
    })
}

/// It was made for its user alone, so somebody has opened it to others since. To close it in silence
/// would hide that they may have read the keys.
fn refuse_exposed(path: &Path) -> Result<(), StoreError> {
    let path = path.to_owned();
    let mode = match std::fs::metadata(&path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(reason) => return Err(StoreError::Folder { path, reason }),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StoreError::Exposed { path, mode })
}

/// Is it what was read that is wrong, rather than the reading?
fn is_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Checks that the file is ours and of a known format; makes it so if it is new. Returns its id.
fn initialize(path: &Path, database: &Database) -> Result<Arc<str>, StoreError> {
    let broken = |error: redb::Error| damaged(path, error.to_string());
    let mut tables = tables(database).map_err(broken)?;
    if tables.is_empty() {
        create(database).map_err(broken)?;
        tables = vec![META.name().to_owned()];
    }
    if !tables.iter().any(|table| table == META.name()) {
        let path = path.to_owned();
        return Err(StoreError::Foreign { path });
    }
    let format = get_meta(database, FORMAT_KEY).map_err(broken)?;
    let format = format.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    match format {
        Some(FORMAT) => {}
        Some(OLDEST_FORMAT..FORMAT) => upgrade(database).map_err(broken)?,
        Some(found) if found > FORMAT => {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        _ => return Err(damaged(path, "it has no format number".to_owned())),
    }
    let id = get_meta(database, STORE_ID_KEY).map_err(broken)?;
    let id = id.and_then(|bytes| String::from_utf8(bytes).ok());
    match id {
        Some(id) if !id.is_empty() => Ok(Arc::from(id)),
        _ => Err(damaged(path, "it has no id".to_owned())),
    }
}

fn load(path: &Path, database: &Database, store_id: &Arc<str>) -> Result<Loaded, StoreError> {
    let broken = |error: redb::Error| damaged(path, error.to_string());
    let wrong = |reason: String| damaged(path, reason);
    let counter = get_meta(database, COUNTER_KEY).map_err(broken)?;
    let counter = counter.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    let counter = counter.ok_or_else(|| wrong("it has no version counter".to_owned()))?;
    let mut loaded = Loaded {
        store_id: Arc::clone(store_id),
        version: counter + 1,
        nodes: Vec::new(),
        generations: Vec::new(),
        services: Vec::new(),
        rules: Vec::new(),
        rules_floor: 0,
        authority: Vec::new(),
    };
    let floor = get_meta(database, RULES_FLOOR_KEY).map_err(broken)?;
    if let Some(bytes) = floor {
        let floor = bytes.try_into().map(u64::from_le_bytes);
        loaded.rules_floor =
            floor.map_err(|_| wrong("its floor of rules is no number".to_owned()))?;
    }
    let entries = read_all(database).map_err(broken)?;
    for (key, bytes) in entries.nodes {
        let record = read_node(&bytes)
            .map_err(|reason| wrong(format!("the record of {key:?} cannot be read: {reason}")))?;
        loaded.nodes.push(record);
    }
    for (key, number) in entries.generations {
        let generation = Generation::new(number)
            .ok_or_else(|| wrong(format!("the generation of {key:?} is 0")))?;
        loaded
            .generations
            .push((read_node_key(&key).map_err(wrong)?, generation));
    }
    for key in entries.services {
        loaded.services.push(read_service_key(&key).map_err(wrong)?);
    }
    for (key, version, bytes) in entries.rules {
        let rule = read_rule(&key, version, &bytes)
            .map_err(|reason| wrong(format!("the rule of {key:?} cannot be read: {reason}")))?;
        loaded.rules.push(rule);
    }
    loaded.authority = entries.authority;
    Ok(loaded)
}

struct Entries {
    nodes: Vec<(String, Vec<u8>)>,
    generations: Vec<(String, u64)>,
    services: Vec<String>,
    rules: Vec<(String, u64, Vec<u8>)>,
    authority: Vec<(String, Secret)>,
}

fn read_all(database: &Database) -> Result<Entries, redb::Error> {
    let transaction = database.begin_read()?;
    let mut entries = Entries {
        nodes: Vec::new(),
        generations: Vec::new(),
        services: Vec::new(),
        rules: Vec::new(),
        authority: Vec::new(),
    };
    for entry in transaction.open_table(NODES)?.iter()? {
        let (key, value) = entry?;
        let pair = (key.value().to_owned(), value.value().to_vec());
        entries.nodes.push(pair);
    }
    for entry in transaction.open_table(GENERATIONS)?.iter()? {
        let (key, value) = entry?;
        entries
            .generations
            .push((key.value().to_owned(), value.value()));
    }
    for entry in transaction.open_table(SERVICES)?.iter()? {
        entries.services.push(entry?.0.value().to_owned());
    }
    for entry in transaction.open_table(RULES)?.iter()? {
        let (key, value) = entry?;
        let (version, bytes) = value.value();
        let rule = (key.value().to_owned(), version, bytes.to_vec());
        entries.rules.push(rule);
    }
    match transaction.open_table(AUTHORITY) {
        Ok(table) => {
            for entry in table.iter()? {
                let (key, value) = entry?;
                let pair = (key.value().to_owned(), Secret::new(value.value().to_vec()));
                entries.authority.push(pair);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(entries)
}

fn tables(database: &Database) -> Result<Vec<String>, redb::Error> {
    let transaction = database.begin_read()?;
    let tables = transaction.list_tables()?;
    Ok(tables.map(|table| table.name().to_owned()).collect())
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        meta.insert(FORMAT_KEY, FORMAT.to_le_bytes().as_slice())?;
        meta.insert(STORE_ID_KEY, id.as_bytes())?;
        meta.insert(COUNTER_KEY, 0_u64.to_le_bytes().as_slice())?;
        transaction.open_table(NODES)?;
        transaction.open_table(GENERATIONS)?;
        transaction.open_table(SERVICES)?;
        transaction.open_table(RULES)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Makes a file of format 1 one of format 2.
fn upgrade(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(RULES)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT_KEY, FORMAT.to_le_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

fn get_meta(database: &Database, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let value = meta.get(key)?;
    Ok(value.map(|value| value.value().to_vec()))
}

fn put_meta(database: &Database, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(key, value)?;
    transaction.commit()?;
    Ok(())
}

fn commit(database: &Database, writes: &Writes) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut meta = transaction.open_table(META)?;
        if let Some(counter) = writes.counter {
            meta.insert(COUNTER_KEY, counter.to_le_bytes().as_slice())?;
        }
        let mut rules = transaction.open_table(RULES)?;
        for ((network, service), (version, rule)) in &writes.rules {
            let bytes = rule.as_deref().map(write_rule).unwrap_or_default();
            let key = service_key(network, service);
            rules.insert(key.as_str(), (*version, bytes.as_slice()))?;
        }
        if let Some(floor) = writes.rules_floor {
            forget_removed(&mut meta, &mut rules, floor)?;
        }
        let mut nodes = transaction.open_table(NODES)?;
        for (key, record) in &writes.nodes {
            match record.as_deref().and_then(write_node) {
                Some(bytes) => nodes.insert(node_key(key).as_str(), bytes.as_slice())?,
                None => nodes.remove(node_key(key).as_str())?,
            };
        }
        let mut generations = transaction.open_table(GENERATIONS)?;
        for (key, generation) in &writes.generations {
            generations.insert(node_key(key).as_str(), generation.number())?;
        }
        prune(&mut generations)?;
        let mut services = transaction.open_table(SERVICES)?;
        for ((network, service), version) in &writes.services {
            services.insert(service_key(network, service).as_str(), version)?;
        }
        prune(&mut services)?;
        if !writes.authority.is_empty() {
            let mut authority = transaction.open_table(AUTHORITY)?;
            for (key, content) in &writes.authority {
                match content {
                    Some(bytes) => authority.insert(key.as_str(), bytes.as_bytes())?,
                    None => authority.remove(key.as_str())?,
                };
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// What was taken back and is published is kept from `floor` on.
fn forget_removed(
    meta: &mut redb::Table<'_, &str, &[u8]>,
    rules: &mut redb::Table<'_, &str, (u64, &[u8])>,
    floor: u64,
) -> Result<(), redb::Error> {
    let before = meta.get(RULES_FLOOR_KEY)?;
    if before.is_some_and(|before| before.value() == floor.to_le_bytes()) {
        return Ok(());
    }
    meta.insert(RULES_FLOOR_KEY, floor.to_le_bytes().as_slice())?;
    let pending = 0;
    rules.retain(|_, (version, rule)| !rule.is_empty() || version > floor || version == pending)?;
    Ok(())
}

/// Keeps a table from growing for ever with names that come and go.
fn prune(table: &mut redb::Table<'_, &str, u64>) -> Result<(), redb::Error> {
    if table.len()? <= 2 * KEPT_LIMIT {
        return Ok(());
    }
    let mut numbers = Vec::new();
    for entry in table.iter()? {
        numbers.push(entry?.1.value());
    }
    numbers.sort_unstable_by(|one, two| two.cmp(one));
    let limit = usize::try_from(KEPT_LIMIT).unwrap_or(usize::MAX);
    let lowest_kept = numbers.get(limit - 1).copied().unwrap_or_default();
    table.retain(|_, number| number >= lowest_kept)?;
    Ok(())
}

/// What tests do to a file behind the store's back.
#[cfg(test)]
pub(super) mod tests_only {
    use super::{Database, FORMAT_KEY, NODES, Path, RULES, TableDefinition, get_meta, put_meta};

    pub(crate) fn set_format(path: &Path, format: u32) {
        let database = Database::open(path).unwrap();
        put_meta(&database, FORMAT_KEY, &format.to_le_bytes()).unwrap();
    }

    /// As the first builds left it.
    pub(crate) fn make_first_format(path: &Path) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        assert!(transaction.delete_table(RULES).unwrap());
        transaction.commit().unwrap();
        drop(database);
        set_format(path, 1);
    }

    pub(crate) fn put_rule(path: &Path, key: &str, bytes: &[u8]) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut rules = transaction.open_table(RULES).unwrap();
        rules.insert(key, (1, bytes)).unwrap();
        drop(rules);
        transaction.commit().unwrap();
    }

    pub(crate) fn format(path: &Path) -> u32 {
        let database = Database::open(path).unwrap();
        let bytes = get_meta(&database, FORMAT_KEY).unwrap().unwrap();
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    pub(crate) fn put_node(path: &Path, key: &str, bytes: &[u8]) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut nodes = transaction.open_table(NODES).unwrap();
        nodes.insert(key, bytes).unwrap();
        drop(nodes);
        transaction.commit().unwrap();
    }

    pub(crate) fn make_foreign(path: &Path) {
        const RECIPES: TableDefinition<'_, &str, &str> = TableDefinition::new("recipes");
        let database = Database::create(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(RECIPES).unwrap();
        transaction.commit().unwrap();
    }
}
