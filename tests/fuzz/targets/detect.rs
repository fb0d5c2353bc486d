//! What the first bytes are is never taken back when more come.
#![no_main]

use byrnie_proxy::detect::look;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut known = None;
    for end in 0..=bytes.len().min(512) {
        let now = look(&bytes[..end]);
        assert!(known.is_none() || now == known, "{known:?} became {now:?} at byte {end}");
        known = now;
    }
});
