//! Policies: each a pure decision. They know the call's facts and its rule, and nothing of
//! sockets; time comes in as an argument.

pub mod commit;
pub mod deadline;
pub mod hedge;
pub mod retry;
