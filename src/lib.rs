//! A load balancer and programmable reverse proxy built on Pingora.

pub mod config;
pub mod listener;
pub mod model;
pub mod observe;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod runtime;
