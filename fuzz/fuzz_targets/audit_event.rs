//! Audit events as hosts send them and as the log's lines hold them; queries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery};
use teleport_fuzz::json::round_trip;

fuzz_target!(|data: &[u8]| {
    if let Some(event) = round_trip::<AuditEvent>(data) {
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains(['\n', '\r']), "an event is one line");
        assert!(!line.bytes().any(|byte| byte < 0x20), "{line:?}");
    }
    round_trip::<Vec<AuditEvent>>(data);
    round_trip::<AuditPage>(data);
    round_trip::<AuditQuery>(data);
});
