//! The event logs of real machines that lie beside the workspace: data of tests, not part of it.

use std::path::{Path, PathBuf};

/// One log, and what its index says of it.
pub(crate) struct RealLog {
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) index: serde_json::Value,
}

/// The folder: `KILN_EVENT_LOGS`, else beside the workspace.
fn folder() -> Option<PathBuf> {
    let beside = || Some(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?.join("shared/data/event-logs"));
    let folder = std::env::var_os("KILN_EVENT_LOGS").map(PathBuf::from).or_else(beside)?;
    folder.join("index.json").exists().then_some(folder)
}

/// Every log of the folder; without the folder the test that asks is left out aloud.
pub(crate) fn real_logs(test: &str) -> Vec<RealLog> {
    let Some(folder) = folder() else {
        println!("LEFT OUT: {test}: there are no event logs in KILN_EVENT_LOGS or ../shared/data/event-logs");
        return Vec::new();
    };
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let read = |entry: &serde_json::Value| {
        let file = entry["file"].as_str().unwrap().to_owned();
        let bytes = std::fs::read(folder.join(&file)).unwrap();
        RealLog { file, bytes, index: entry.clone() }
    };
    let logs: Vec<_> = index.as_array().unwrap().iter().map(read).collect();
    assert!(!logs.is_empty(), "the index is empty");
    logs
}

/// One log by its file name; `None` if the folder is not there.
pub(crate) fn real_log(test: &str, file: &str) -> Option<Vec<u8>> {
    real_logs(test).into_iter().find(|log| log.file == file).map(|log| log.bytes)
}
