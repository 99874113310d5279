//! Choosing a class and a lane step by step. [`RoutingBuilder`] is a state machine in types: a
//! chain of steps that leads to no legal pair does not compile. [`DynamicBuilder`] is the same for
//! what is known only when the program runs, and its errors say what rustc would have said.

mod dynamic;
mod factory;
mod state;

pub use dynamic::{DynamicBuilder, DynamicRouting, RoutingError};
pub use factory::RoutingFactory;
pub use state::{
    AwaitsClass, AwaitsLane, ClassChosen, Complete, Finished, NothingChosen, RoutingBuilder,
};
