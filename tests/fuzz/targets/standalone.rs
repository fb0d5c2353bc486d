//! A configuration is understood or refused with words, whatever is in it.
#![no_main]

use std::{env, fs, process};

use byrnie_proxy::standalone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let path = env::temp_dir().join(format!("byrnie-fuzz-{}.yaml", process::id()));
    fs::write(&path, text).expect("a temporary file can be written");
    let check = standalone::check(&path);
    let (status, said) = (check.exit_status(), check.text());
    assert!(status < 2 && !said.is_empty(), "{status}: {said}");
    assert_eq!(status == 0, said.ends_with(": no problems\n"), "{said}");
});
