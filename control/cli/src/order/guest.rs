//! How much of its memory a guest has touched, as the host's kernel sees it.
//!
//! QEMU maps the guest's memory as one piece, and the kernel counts which pages of it exist. That is at least what the guest uses
//! now: a page that it has given back still counts. QEMU's own memory, its translated code above all, does not.

use std::fs;
use std::path::Path;

/// Bytes of guest memory that exist, of the machine whose files are in `directory`; `None` if it is gone.
pub(crate) fn touched_bytes(directory: &Path, memory_mib: u32) -> Option<u64> {
    let directory = directory.to_str()?;
    let process = fs::read_dir("/proc").ok()?.filter_map(Result::ok).map(|entry| entry.path()).find(|process| {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.split('\0').next().is_some_and(|program| program.contains("qemu-system")) && command.contains(directory)
    })?;
    touched(&fs::read_to_string(process.join("smaps")).ok()?, u64::from(memory_mib) * 1024)
}

/// The `Rss` of the mapping of that `Size`, in bytes. Source: proc_pid_smaps(5).
fn touched(smaps: &str, size_kib: u64) -> Option<u64> {
    let kib = |line: &str, name: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    let mut lines = smaps.lines().skip_while(|line| kib(line, "Size:") != Some(size_kib));
    lines.find_map(|line| kib(line, "Rss:")).map(|rss_kib| rss_kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_s_memory_is_found_by_its_size() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize:    64 kB\nRss:     60 kB\n7f02-7f03 rw-p 0 00:00 0\nSize:  2048 kB\nRss:   100 kB\n";
        assert_eq!(touched(smaps, 2048), Some(102_400));
        assert_eq!(touched(smaps, 4096), None);
        assert_eq!(touched_bytes(Path::new("/no-machine-is-here"), 1), None);
    }
}
