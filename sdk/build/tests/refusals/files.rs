//! Files that cannot be compiled, whatever their rules.

use std::fs;

use sidelane_build::configure;

use super::{SHOP, try_build, try_with, without};

#[test]
fn of_files_that_cannot_be_parsed() {
    let error = try_build(&[(
        "a/b.proto",
        "syntax = \"proto3\";\nmessage A {\n  int32 b 1;\n}\n",
    )]);
    assert_eq!(
        error.unwrap_err(),
        "proto/a/b.proto:3:11: expected '=', but found '1'"
    );
    let error = try_build(&[("a.proto", "syntax = \"proto3\";\nmessage A {\n")]).unwrap_err();
    assert!(error.starts_with("proto/a.proto:3:1: expected"), "{error}");
    assert!(error.ends_with("but reached end of file"), "{error}");
    try_build(&[(
        "a/b.proto",
        "syntax = \"proto3\";\nmessage A {\n  int32 b = 1;\n}\n",
    )])
    .unwrap();
}

#[test]
fn of_types_that_are_not_there() {
    let bad = SHOP.replace("rpc Put(GetRequest)", "rpc Put(PutRequest)");
    let error = try_build(&[("shop.proto", &bad)]).unwrap_err();
    assert_eq!(
        error,
        "proto/shop.proto:18:11: name 'PutRequest' is not defined"
    );
}

#[test]
fn of_imports_that_are_not_there() {
    let bad = SHOP.replace(
        "import \"sidelane/routing/v1/routing.proto\";",
        "import \"sidelane/routing/routing.proto\";\nimport \"shop/lanes.proto\";",
    );
    let lanes = "syntax = \"proto3\";";
    let error = try_build(&[("shop.proto", &bad), ("shop/lane.proto", lanes)]).unwrap_err();
    let expected = "proto/shop.proto:4:1: `sidelane/routing/routing.proto` is not found; did you \
                    mean `sidelane/routing/v1/routing.proto`? (imports are looked for in proto)\n\
                    proto/shop.proto:5:1: `shop/lanes.proto` is not found; did you mean \
                    `shop/lane.proto`? (imports are looked for in proto)";
    assert_eq!(error.replace("/tmp/", ""), expected);
    let good = SHOP.replace(
        "package shop.v1;",
        "package shop.v1;\nimport \"shop/lane.proto\";",
    );
    try_build(&[("shop.proto", &good), ("shop/lane.proto", lanes)]).unwrap();
}

#[test]
fn of_options_that_are_not_imported() {
    let bad = SHOP.replace("import \"sidelane/routing/v1/routing.proto\";", "");
    let error = try_build(&[("shop.proto", &bad)]).unwrap_err();
    let expected = "proto/shop.proto:7:3: name 'sidelane.routing.v1.service' is not defined; say \
                    `import \"sidelane/routing/v1/routing.proto\";`";
    assert_eq!(error, expected);
}

#[test]
fn of_imports_that_lead_in_a_circle_or_stand_twice() {
    let file = |imports: &[&str]| {
        let imports = imports.iter().map(|name| format!("import \"{name}\";\n"));
        format!("syntax = \"proto3\";\n{}", imports.collect::<String>())
    };
    let (a, b) = (file(&["b.proto"]), file(&["a.proto"]));
    let error = try_build(&[("a.proto", &a), ("b.proto", &b)]).unwrap_err();
    let expected = "proto/b.proto:2:1: files import each other: a.proto -> b.proto -> a.proto";
    assert_eq!(error, expected);
    let twice = file(&["b.proto", "b.proto"]);
    let error = try_build(&[("a.proto", &twice), ("b.proto", "syntax = \"proto3\";")]);
    assert_eq!(
        error.unwrap_err(),
        "proto/a.proto:3:1: `b.proto` is imported twice"
    );
}

#[test]
fn of_folders_that_are_not_there_or_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let build = || {
        let builder = configure().protos(&[&one, &other]).stubs(false);
        let built = builder.out_dir(folder.path().join("out")).build();
        built.map_err(|errors| without(&errors.to_string(), folder.path()))
    };
    fs::create_dir(&one).unwrap();
    fs::write(one.join("a.proto"), "syntax = \"proto3\"; package one;").unwrap();
    let error = build().unwrap_err();
    assert!(
        error.starts_with("other: this folder cannot be read: "),
        "{error}"
    );
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.proto"), "syntax = \"proto3\"; package other;").unwrap();
    let expected = "other/a.proto: is imported as `a.proto`, and so is one/a.proto; give one of \
                    them another name";
    assert_eq!(build().unwrap_err(), expected);
    fs::rename(other.join("a.proto"), other.join("b.proto")).unwrap();
    build().unwrap();
}

#[test]
fn of_single_files_that_no_folder_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.proto");
    fs::write(&path, SHOP).unwrap();
    let builder = || configure().stubs(false).out_dir(folder.path().join("out"));
    let errors = builder().file(&path).build().unwrap_err();
    let expected = "shop.proto: is below no folder that imports are looked for in; add that folder \
                    with `.include(…)`";
    assert_eq!(without(&errors.to_string(), folder.path()), expected);
    let built = builder()
        .include(folder.path())
        .file(&path)
        .build()
        .unwrap();
    assert_eq!(built.rules.rules[0].origin, "shop.proto:7");
}

/// Who vendors the options gets those of this version.
#[test]
fn options_are_brought_along_whatever_lies_in_the_folders() {
    let options = "syntax = \"proto3\"; package sidelane.routing.v1; message Old {}";
    let files = [
        ("sidelane/routing/v1/routing.proto", options),
        ("shop.proto", SHOP),
    ];
    let built = try_with(&files, |builder| builder).unwrap();
    assert_eq!(built.rules.rules.len(), 1);
}
