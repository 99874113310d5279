//! Who a process is, from one start to the next.

use super::*;

fn take(
    folder: Option<&DataFolder>,
    given: Option<&str>,
    unix_ms: u64,
) -> (NodeIdentity, Vec<String>) {
    let given = given.map(|name| NodeId::new(name).unwrap());
    let (identity, warnings) = NodeIdentity::take(folder, given, unix_ms).unwrap();
    let texts = warnings.iter().map(ToString::to_string).collect();
    (identity, texts)
}

fn folder() -> (tempfile::TempDir, DataFolder) {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    (directory, folder)
}

#[test]
fn a_node_id_is_made_once_and_the_generation_grows() {
    let (directory, folder) = folder();
    let (first, warnings) = take(Some(&folder), None, 5_000);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(first.generation.number(), 5_000);
    let kept = std::fs::read_to_string(directory.path().join("generation")).unwrap();
    assert_eq!(kept, "5000");

    // The clock went back; the generation does not.
    let (second, _) = take(Some(&folder), None, 4_000);
    assert_eq!(second.node, first.node);
    assert_eq!(second.generation.number(), 5_001);
    assert_ne!(second.instance, first.instance);
    assert_eq!(second.instance.as_str().len(), 16);
}

#[test]
fn a_given_node_id_is_taken_and_not_kept() {
    let (directory, folder) = folder();
    let (identity, _) = take(Some(&folder), Some("orders-1"), 1);
    assert_eq!(identity.node.as_str(), "orders-1");
    assert!(!directory.path().join("node").exists());
    let (made, _) = take(Some(&folder), None, 1);
    assert_ne!(made.node.as_str(), "orders-1");
}

#[test]
fn a_made_name_is_the_hosts_with_something_random() {
    assert_eq!(
        identity::node_name("web-7.example", 0xabc),
        "web-7.example-00000abc"
    );
    assert_eq!(identity::node_name("", 1), "node-00000001");
    assert_eq!(identity::node_name("bäd host\n", 1), "bdhost-00000001");
    let long = identity::node_name(&"x".repeat(500), 1);
    assert!(NodeId::new(&long).is_ok());
    assert!(take(None, None, 1).0.node.as_str().contains('-'));
}

#[test]
fn a_kept_node_id_that_is_none_stops_the_start() {
    let (directory, folder) = folder();
    let path = directory.path().join("node");
    std::fs::write(&path, "two words").unwrap();
    let error = NodeIdentity::take(Some(&folder), None, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`{}` holds no node id: node_id `two words` is not a node id (letters, digits, `.`, \
             `_`, `-`); correct it, remove it, or give --node",
            path.display()
        )
    );
}

#[test]
fn a_spoiled_generation_is_told_and_replaced() {
    let (directory, folder) = folder();
    let path = directory.path().join("generation");
    std::fs::write(&path, "seven").unwrap();
    let (identity, warnings) = take(Some(&folder), Some("a"), 700);
    assert_eq!(
        warnings,
        [format!(
            "`{}` holds no generation but `seven`; it is ignored and replaced",
            path.display()
        )]
    );
    assert_eq!(identity.generation.number(), 700);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "700");
}

#[test]
fn a_disk_that_keeps_nothing_is_told_and_no_reason_to_stop() {
    let (directory, folder) = folder();
    let path = directory.path().join("generation.new");
    std::fs::create_dir(&path).unwrap();
    let (identity, warnings) = take(Some(&folder), Some("a"), 700);
    assert_eq!(identity.generation.number(), 700);
    assert_eq!(
        warnings,
        [format!(
            "`{}` cannot be written: Is a directory (os error 21); the generation follows the \
             clock alone until that is mended",
            directory.path().join("generation").display()
        )]
    );
}
