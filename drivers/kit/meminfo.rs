//! What the system tells of its memory.

use std::fs;

/// What a line of `/proc/meminfo` says, such as `MemAvailable`, in bytes; `None` where there is none.
#[must_use]
pub fn bytes(line: &str) -> Option<u64> {
    told(&fs::read_to_string("/proc/meminfo").ok()?, line)
}

fn told(meminfo: &str, name: &str) -> Option<u64> {
    let (_, value) =
        meminfo.lines().filter_map(|line| line.split_once(':')).find(|(line, _)| *line == name)?;
    let kib: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_or_taken_for_nothing() {
        let text = "MemTotal:  24 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\nBuffers: 3 kB\n";
        assert_eq!(told(text, "MemAvailable"), Some(2 << 20));
        assert_eq!(told(text, "MemTotal"), Some(24 << 10));
        for bad in
            ["", "MemFree: 1 kB\n", "MemAvailable: x kB", "MemAvailable: 5", "MemAvailable: kB"]
        {
            assert_eq!(told(bad, "MemAvailable"), None, "{bad}");
        }
        assert!(bytes("MemTotal") > Some(1 << 20) && bytes("MemNothing").is_none());
    }
}
