//! What runs in and beside a pod: init, its PID 1, and the shim, which owns its input and output on the host.
//! Both are small static programs without threads and without an async runtime.

pub mod init;
pub mod shim;
