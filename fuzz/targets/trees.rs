#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| torpor_fuzz::trees(data));
