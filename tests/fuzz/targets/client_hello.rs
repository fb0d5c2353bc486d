//! What was read from the start of a ClientHello does not change when more bytes come.
#![no_main]

use byrnie_proxy::client_hello::{Peek, peek};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut known = Peek::NeedMore;
    for end in 0..=bytes.len().min(2048) {
        let now = peek(&bytes[..end]);
        assert!(known == Peek::NeedMore || now == known, "{known:?} became {now:?} at byte {end}");
        known = now;
    }
});
