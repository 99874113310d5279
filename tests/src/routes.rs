//! The rules of the test services, which stand beside their rpcs in
//! `proto/sidelane/test/v1/echo.proto`.

/// What the program under test is compiled with.
pub use crate::wire::ROUTES;

/// Where the rule of a test service is written, as refusals name it.
///
/// # Panics
/// No rule names the service.
#[must_use]
pub fn origin(service: &str) -> String {
    let rule = ROUTES.rules().find(|rule| rule.service == service);
    let Some(rule) = rule else {
        panic!("{service} has no rule");
    };
    rule.origin.clone().into_owned()
}
