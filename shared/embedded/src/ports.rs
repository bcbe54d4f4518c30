//! Free loopback ports. A port found free may be taken a moment later: callers start their server on it and ask
//! for another when that fails.

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which systems choose ports for outgoing connections (32768 on Linux, 49152 elsewhere), so
/// that a server which is down for a moment finds its port free when it comes back.
const RANGE: std::ops::Range<u16> = 18_000..32_000;

/// A loopback port on which nobody listened a moment ago, outside of what systems choose for outgoing connections.
pub fn free() -> u16 {
    loop {
        let port = rand::random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
