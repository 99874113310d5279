//! The embedded store over real files, and the thread before it over a store that fails at will.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use super::embedded::tests_only;
use super::*;
use crate::registry::Batch;
use crate::registry::fixtures::{generation, key, network, pushed, record, service};

fn open(folder: &Path) -> Result<(Embedded, Loaded), StoreError> {
    Embedded::open(folder)
}

fn refused(folder: &Path) -> String {
    open(folder).unwrap_err().to_string()
}

fn node(name: &str) -> (crate::registry::NodeKey, Option<Arc<NodeRecord>>) {
    (key(name), Some(Arc::new(record(name, &["a.A"]))))
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("deep/state");
    let (mut store, fresh) = open(&folder).unwrap();
    assert_eq!(fresh.version, 1);
    assert!(fresh.nodes.is_empty() && fresh.services.is_empty());
    let mut writes = Writes {
        counter: Some(7),
        ..Writes::default()
    };
    writes.nodes.extend([node("m"), node("n")]);
    writes.generations.insert(key("n"), generation(1));
    writes.generations.insert(key("left"), generation(9));
    writes.services.insert((network(), service("a.A")), 7);
    store.commit(&writes).unwrap();
    let gone = Writes {
        nodes: HashMap::from([(key("m"), None)]),
        ..Writes::default()
    };
    store.commit(&gone).unwrap();
    drop(store);

    let (_, loaded) = open(&folder).unwrap();
    assert_eq!(loaded.store_id, fresh.store_id);
    assert_eq!(loaded.version, 8, "above every version that was published");
    assert_eq!(loaded.nodes.len(), 1);
    assert!(loaded.nodes[0].is_stored_as(&record("n", &["a.A"])));
    let mut generations = loaded.generations;
    generations.sort();
    assert_eq!(
        generations,
        [(key("left"), generation(9)), (key("n"), generation(1))]
    );
    assert_eq!(loaded.services, [(network(), service("a.A"))]);
}

#[test]
fn a_crash_never_takes_the_counter_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, first) = open(folder.path()).unwrap();
    // Dropped without a last write, as after a SIGKILL: any version of the reserve may be out.
    drop(store);
    let (_, second) = open(folder.path()).unwrap();
    assert!(second.version > first.version + write_behind::RESERVE);
}

#[test]
fn only_its_user_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("state");
    drop(open(&data).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join(Embedded::FILE)), 0o600);
}

#[test]
fn a_file_that_others_may_read_is_refused_with_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = folder.path().join(Embedded::FILE);
    let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    for mode in [0o644, 0o640, 0o602] {
        allow(mode).unwrap();
        let text = refused(folder.path());
        assert!(
            text.contains(&format!("`chmod 600 {}`", path.display())),
            "{text}"
        );
    }
    allow(0o600).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_second_process_is_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Embedded::FILE);
    let first = open(folder.path()).unwrap();
    assert_eq!(
        refused(folder.path()),
        format!(
            "the store {} is in use by another control plane (process {}); stop that one, or give \
             this one a folder of its own with --data",
            path.display(),
            std::process::id()
        )
    );
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = folder.path().join(Embedded::FILE);
    tests_only::set_format(&path, 7);
    let before = std::fs::read(&path).unwrap();
    assert_eq!(
        refused(folder.path()),
        format!(
            "the store {} has format 7, and this build reads up to format 2; start the newer \
             build that wrote it, or another folder with --data",
            path.display()
        )
    );
    assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
    assert_eq!(tests_only::format(&path), 7);
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Embedded::FILE);
    let expected = format!(
        "{} is not a store of Sidelane's control plane, and is left as it is; move it away, or \
         choose another folder with --data",
        path.display()
    );
    std::fs::write(&path, "dear diary").unwrap();
    assert_eq!(refused(folder.path()), expected);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary");
    // Another program's redb file.
    std::fs::remove_file(&path).unwrap();
    tests_only::make_foreign(&path);
    assert_eq!(refused(folder.path()), expected);
}

#[test]
fn damage_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = folder.path().join(Embedded::FILE);
    let whole = std::fs::read(&path).unwrap();
    // Cut off in the midst, as a copy that was interrupted.
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let open = std::panic::catch_unwind(|| refused(folder.path()));
    let error = open.expect("the database panics no more on this");
    let expected = format!(
        "the store {} is damaged, and is left as it is: ",
        path.display()
    );
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), whole[..whole.len() / 2]);
    // Whole, but with a record that makes no sense.
    std::fs::write(&path, &whole).unwrap();
    tests_only::put_node(&path, "default\0n", b"\xff\xff");
    let error = refused(folder.path());
    assert!(error.starts_with(&expected), "{error}");
    assert!(
        error.contains(r#"the record of "default\0n" cannot be read"#),
        "{error}"
    );
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = refused(&path);
    let expected = format!("cannot use {} as --data says: ", path.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn it_is_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    // Left by a crash in the midst of making it.
    std::fs::write(folder.path().join("control.new"), [0; 4096]).unwrap();
    let (_, loaded) = open(folder.path()).unwrap();
    assert_eq!(loaded.version, 1);
    assert!(!folder.path().join("control.new").exists());
}

/// A rule of this name as it is written: with this version, or taken back.
fn rule(name: &str, version: u64, seconds: Option<u64>) -> ((Network, ServiceName), KeptRule) {
    let rule = seconds.map(|seconds| {
        Arc::new(PushedRule {
            version,
            ..pushed(name, seconds)
        })
    });
    ((network(), service(name)), (version, rule))
}

fn rules(loaded: &Loaded) -> HashMap<(Network, ServiceName), KeptRule> {
    let rules = loaded.rules.iter().cloned();
    rules
        .map(|applied| {
            let key = (applied.network, applied.service);
            (key, (applied.version, applied.rule))
        })
        .collect()
}

#[test]
fn rules_and_what_was_taken_back_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, fresh) = open(folder.path()).unwrap();
    assert!(fresh.rules.is_empty());
    let written = HashMap::from([
        rule("a.A", 7, Some(1)),
        rule("b.B", 8, None),
        // On disk, and not published before the end.
        rule("c.C", 0, Some(2)),
        rule("d.D", 0, None),
    ]);
    let writes = Writes {
        rules: written.clone(),
        ..Writes::default()
    };
    store.commit(&writes).unwrap();
    drop(store);
    let (mut store, loaded) = open(folder.path()).unwrap();
    assert_eq!(rules(&loaded), written);
    assert_eq!(loaded.rules_floor, 0);

    let forgets = Writes {
        rules: HashMap::from([rule("a.A", 9, Some(3))]),
        rules_floor: Some(8),
        ..Writes::default()
    };
    store.commit(&forgets).unwrap();
    drop(store);
    let (_, loaded) = open(folder.path()).unwrap();
    let left = HashMap::from([
        rule("a.A", 9, Some(3)),
        rule("c.C", 0, Some(2)),
        rule("d.D", 0, None),
    ]);
    assert_eq!(rules(&loaded), left);
    assert_eq!(loaded.rules_floor, 8);
}

#[test]
fn a_store_without_rules_becomes_one_with() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, fresh) = open(folder.path()).unwrap();
    let writes = Writes {
        nodes: HashMap::from([node("n")]),
        ..Writes::default()
    };
    store.commit(&writes).unwrap();
    drop(store);
    let path = folder.path().join(Embedded::FILE);
    tests_only::make_first_format(&path);
    let (mut store, loaded) = open(folder.path()).unwrap();
    assert_eq!(loaded.store_id, fresh.store_id);
    assert_eq!((loaded.nodes.len(), loaded.rules.len()), (1, 0));
    let writes = Writes {
        rules: HashMap::from([rule("a.A", 7, Some(1))]),
        ..Writes::default()
    };
    store.commit(&writes).unwrap();
    drop(store);
    assert_eq!(tests_only::format(&path), 2, "an older build refuses it");
    assert_eq!(open(folder.path()).unwrap().1.rules.len(), 1);
}

#[test]
fn a_rule_that_cannot_be_read_is_named() {
    for (bytes, reason) in [
        (b"\xff".to_vec(), "is not a stored rule"),
        (pushed("b.B", 1).to_bytes(), "it is of b.B"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        tests_only::put_rule(&folder.path().join(Embedded::FILE), "default\0a.A", &bytes);
        let error = refused(folder.path());
        let expected = r#"the rule of "default\0a.A" cannot be read: "#;
        assert!(
            error.contains(expected) && error.contains(reason),
            "{error}"
        );
    }
}

/// A store whose disk is full while `broken` says so. It reports each commit.
struct Flaky {
    broken: Arc<Mutex<bool>>,
    commits: mpsc::Sender<Writes>,
}

impl Store for Flaky {
    fn commit(&mut self, writes: &Writes) -> Result<(), StoreError> {
        if *self.broken.lock().unwrap() {
            return Err(StoreError::Write {
                path: "control.redb".into(),
                reason: "No space left on device".to_owned(),
            });
        }
        self.commits.send(writes.clone()).unwrap();
        Ok(())
    }
}

fn flaky(
    version: u64,
) -> (
    WriteBehind,
    Box<dyn crate::registry::Journal>,
    Arc<Mutex<bool>>,
    mpsc::Receiver<Writes>,
) {
    let (commits, committed) = mpsc::channel();
    let broken = Arc::new(Mutex::new(false));
    let store = Flaky {
        broken: Arc::clone(&broken),
        commits,
    };
    let (behind, journal) = WriteBehind::start(Box::new(store), version).unwrap();
    (behind, journal, broken, committed)
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_full_disk_is_said_and_written_to_again_when_it_has_room() {
    let (behind, mut journal, broken, committed) = flaky(1);
    let status = behind.status();
    *broken.lock().unwrap() = true;
    for (version, name) in [(2, "m"), (3, "n")] {
        journal.record(Batch {
            version,
            nodes: vec![node(name)],
            ..Batch::default()
        });
    }
    let began = std::time::Instant::now();
    while status.failures() == 0 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(
        status.failure().unwrap(),
        "the store control.redb cannot be written: No space left on device"
    );
    *broken.lock().unwrap() = false;
    let writes = committed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(writes.nodes.len(), 2, "nothing was lost");
    assert!(behind.stop());
    assert_eq!(status.failure(), None);
    let last = committed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(last.counter, Some(3), "the unused reserve is given back");
}

#[tokio::test]
async fn what_must_be_durable_first_is_told_when_it_is_and_when_it_cannot_be() {
    let (behind, mut journal, broken, committed) = flaky(1);
    let ahead = behind.ahead();
    let writes = |name: &str, seconds| Writes {
        rules: HashMap::from([rule(name, 0, Some(seconds))]),
        ..Writes::default()
    };
    ahead.commit(writes("a.A", 1)).await.unwrap();
    assert_eq!(committed.try_recv().unwrap().rules.len(), 1);

    *broken.lock().unwrap() = true;
    let error = ahead.commit(writes("b.B", 1)).await.unwrap_err();
    assert_eq!(
        error,
        "the store control.redb cannot be written: No space left on device"
    );
    *broken.lock().unwrap() = false;
    // What was published before comes to the disk before.
    journal.record(Batch {
        version: 5,
        rules: vec![crate::registry::AppliedRule {
            network: network(),
            service: service("a.A"),
            version: 5,
            rule: Some(Arc::new(pushed("a.A", 1))),
        }],
        ..Batch::default()
    });
    ahead.commit(writes("a.A", 2)).await.unwrap();
    assert!(behind.stop());
    assert_eq!(
        ahead.commit(writes("c.C", 1)).await.unwrap_err(),
        "the store is closing"
    );
    let mut written = Writes::default();
    while let Ok(writes) = committed.try_recv() {
        let later = writes.rules.values().map(|(version, _)| *version);
        assert!(later.clone().all(|version| version == 0 || version == 5));
        written.merge(writes);
    }
    let (version, newest) = &written.rules[&(network(), service("a.A"))];
    assert_eq!(*version, 0);
    let seconds = newest.as_ref().unwrap().rule.timeout;
    assert_eq!(seconds, Some(Duration::from_secs(2)));
    assert_eq!(written.rules.len(), 1, "what failed is not written later");
}

#[test]
fn the_end_on_a_full_disk_is_said_and_does_not_hang() {
    let (behind, mut journal, broken, _committed) = flaky(1);
    *broken.lock().unwrap() = true;
    journal.record(Batch {
        version: 2,
        nodes: vec![node("n")],
        ..Batch::default()
    });
    assert!(!behind.stop());
}

#[test]
fn more_versions_are_set_aside_before_the_last_are_used() {
    let (behind, mut journal, _, committed) = flaky(1);
    let record = |version| Batch {
        version,
        ..Batch::default()
    };
    journal.record(record(2));
    journal.record(record(write_behind::RESERVE / 2 + 2));
    let writes = committed.recv_timeout(PATIENCE).unwrap();
    let counter = write_behind::RESERVE / 2 + 2 + write_behind::RESERVE;
    assert_eq!(writes.counter, Some(counter));
    assert!(behind.stop());
}

#[test]
fn what_waits_is_bounded_by_what_is_least_missed() {
    let (behind, mut journal, broken, _committed) = flaky(1);
    *broken.lock().unwrap() = true;
    for n in 0..=PENDING_LIMIT {
        journal.record(Batch {
            version: n as u64,
            nodes: vec![(key(&format!("n-{n}")), None)],
            ..Batch::default()
        });
    }
    journal.record(Batch {
        nodes: vec![node("alive")],
        ..Batch::default()
    });
    assert!(behind.status().forgotten() > 0);
    assert!(!behind.stop());
}
