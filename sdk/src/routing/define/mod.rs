//! The macros by which a project states its services, lanes and classes in Rust. Where protos are
//! used the build writes what these expand to. Each takes its fields in any order, and what is
//! missing, repeated or misspelt is one compile error that says so.

mod connection;
mod service;
mod swimlane;
