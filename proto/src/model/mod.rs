//! The validated model.
