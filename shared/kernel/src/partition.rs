//! Which virtual partition a key belongs to.
//!
//! Logs, streams and cursors store the answer, so neither the number of partitions nor the function may ever change. How
//! many workers share the partitions is a setting elsewhere, and may.

use uuid::Uuid;

/// How many virtual partitions there are, in every service and for ever.
pub const PARTITIONS: u16 = 64;

/// The partition of a key: FNV-1a (64 bits) over the sixteen bytes of the UUID in network order, its halves folded
/// together by exclusive or, modulo [`PARTITIONS`].
#[must_use]
pub fn partition_of(key: Uuid) -> u16 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = key.as_bytes().iter().fold(OFFSET_BASIS, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    (folded % u64::from(PARTITIONS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OrderId;

    /// Data on disk depends on these values. If this test fails, the function is wrong, not the test.
    #[test]
    fn frozen() {
        let cases = [
            ("00000000-0000-0000-0000-000000000000", 28),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 29),
            ("01890a5d-ac96-774b-bcce-b302099a8057", 47),
            ("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", 25),
        ];
        for (key, expected) in cases {
            assert_eq!(partition_of(key.parse().expect("a UUID")), expected, "{key}");
        }
    }

    #[test]
    fn time_ordered_ids_spread_evenly() {
        let mut counts = [0_u32; PARTITIONS as usize];
        for _ in 0..64_000 {
            counts[usize::from(partition_of(OrderId::generate().uuid()))] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }
}
