//! Everything that was found to be worth keeping, and the messages that it began with, once more: so
//! whoever runs `cargo test` runs them.

use std::fs;
use std::path::Path;

use sidelane_fuzz::TARGETS;

#[test]
fn whatever_was_kept_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            println!("{}", file.display());
            (target.run)(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn what_they_begin_with_breaks_nothing() {
    for target in TARGETS {
        for (at, seed) in (target.seeds)().iter().enumerate() {
            println!("{} {at}", target.name);
            (target.run)(seed);
        }
    }
}

#[test]
fn each_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    for at in ["corpus", "libfuzzer/fuzz_targets"] {
        let entries = fs::read_dir(folder.join(at)).unwrap();
        let mut found: Vec<String> = entries.map(|entry| named(&entry.unwrap().path())).collect();
        found.sort();
        assert_eq!(found, TARGETS.map(|target| target.name), "{at}");
    }
}
