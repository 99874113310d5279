//! Routing rules: what kind of traffic a service is, where it may be reached, and in which lane
//! it travels.
//!
//! A [`Rule`] is data that can be a constant; a [`RouteTable`] is all rules that a program was
//! compiled with. The (class, lane) pairs that go together are known to
//! [`sidelane_proto::model::matrix`] alone, and a constant rule with another pair does not
//! compile:
//!
//! ```
//! use sidelane::routing::{ConnectionClass, Lane, MethodRule, RouteTable, Rule, rule};
//!
//! const ORDERS: Rule = {
//!     const METHODS: &[MethodRule] = &[MethodRule::unary("GetOrder").idempotent()];
//!     let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
//!     let mut orders = rule("shop.v1.Orders", class, lane, METHODS, "orders.rs");
//!     orders.persistent = true;
//!     orders
//! };
//! static RULES: &[Rule] = &[ORDERS];
//! static ROUTES: RouteTable = RouteTable::new(RULES);
//! assert_eq!(ROUTES.rules().next().unwrap().service, "shop.v1.Orders");
//! ```
//!
//! ```compile_fail
//! use sidelane::routing::{ConnectionClass, Lane, Rule, rule};
//!
//! const WRONG: Rule = rule("a.B", ConnectionClass::Internal, Lane::INGRESS_DATA, &[], "here");
//! # fn main() { let _ = WRONG; }
//! ```

mod index;
mod services;
mod table;

pub use index::{Found, PATHS_LIMIT, PathIndex};
pub use services::PREDEFINED;
pub use sidelane_proto::model::{
    CallPath, Category, ConnectionClass, Lane, LoadBalancing, MethodRule, PathError, Rule,
};
pub use table::{RouteTable, rule};
