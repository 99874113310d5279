//! The names of the test services, as rules, `--serve` and paths write them.

/// Every kind of call; Internal, General.
pub const ECHO: &str = "sidelane.test.v1.Echo";
/// Bulk data; Internal, `BifrostData`.
pub const BULK: &str = "sidelane.test.v1.Bulk";
/// Heartbeats; Internal, Gossip.
pub const BEAT: &str = "sidelane.test.v1.Beat";
/// Internal, General, and `secure`.
pub const VAULT: &str = "sidelane.test.v1.Vault";
/// External, `IngressData`.
pub const FRONT: &str = "sidelane.test.v1.Front";
