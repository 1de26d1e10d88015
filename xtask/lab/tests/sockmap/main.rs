//! Why there is no acceleration by sockmap: the same scripts over plain TCP and over sockets that
//! an `sk_msg` program joins. ARCHITECTURE.md, "No acceleration by sockmap", draws the conclusion.
//!
//! A test that a kernel mended says so; that is good news, and its text says what to do.
#![expect(clippy::unwrap_used, reason = "tests")]

mod accelerator;
mod options;
mod order;
mod pair;
mod reading;
mod sameness;
mod sending;
mod speed;
mod stress;
