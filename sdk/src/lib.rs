//! The library that users of Sidelane depend on.
//!
//! [`routing`] holds the rules that decide where a service may be reached and in which lane its
//! calls travel. [`channel`] makes a tonic channel to the sidecar beside this process, over which
//! every generated client works unchanged:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = sidelane::channel().await?;
//! // let mut orders = OrdersClient::new(channel);
//! # drop(channel);
//! # Ok(())
//! # }
//! ```

mod local;
mod protos;
pub mod routing;
pub mod sender;

pub use local::{
    DEFAULT_TARGET, TARGET_VARIABLE, Target, TargetError, channel, channel_to, lazy_channel_to,
};
