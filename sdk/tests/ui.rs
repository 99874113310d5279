//! What rustc says of routing: programs that compile, and programs that must not, with the words
//! that people read then.

/// One build for all: `tests/ui/pass` compiles and runs, `tests/ui/fail` is refused with the text
/// beside it.
#[test]
fn routing_that_cannot_work_is_refused_in_words() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
