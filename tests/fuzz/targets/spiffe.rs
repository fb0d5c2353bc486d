//! An id has one spelling, and is made of its parts.
#![no_main]

use byrnie_model::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert!(text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b':' | b'/')));
    let domain: TrustDomain = id.trust_domain().parse().expect("the domain of an id is one");
    let again = SpiffeId::new(&domain, id.namespace(), id.service_account());
    assert_eq!(again.as_ref(), Ok(&id));
});
