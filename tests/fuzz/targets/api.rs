//! What a message from the operator says survives being written and read again, and no message is too much.
#![no_main]

use byrnie_api::{decode, encode, v1};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 3 {
        0 => {
            let Ok(message) = v1::Workload::decode(bytes) else { return };
            let Ok(workload) = decode::workload(message) else { return };
            assert_eq!(decode::workload(encode::workload(&workload)), Ok(workload));
        }
        1 => {
            let Ok(message) = v1::Destination::decode(bytes) else { return };
            let Ok((at, destination)) = decode::destination(message) else { return };
            let again = decode::destination(encode::destination(at, &destination));
            assert_eq!(again, Ok((at, destination)));
        }
        _ => {
            let Ok(message) = v1::Trust::decode(bytes) else { return };
            let Ok(trust) = decode::trust(message) else { return };
            assert_eq!(decode::trust(encode::trust(&trust)), Ok(trust));
        }
    }
});
