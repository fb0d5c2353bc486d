//! Hashes that all proxies agree on: the same key leads to the same endpoint, whoever calls.
//!
//! FNV-1a, mixed by SplitMix64's last step. Not for secrets: whoever chooses keys can choose the endpoint, as with any
//! consistent hash.

/// Of some bytes.
pub fn of(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv), 0)
}

/// Of two hashes.
pub fn mix(one: u64, other: u64) -> u64 {
    let mut hash = one ^ other.rotate_left(32);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
