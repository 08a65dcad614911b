//! The usage of the machine: processors, memory and the disk of the root directory.

use std::fs;

use super::report::HostUsage;

/// Measures the processors between two reads.
#[derive(Debug, Default)]
pub struct UsageMeter {
    /// Idle and all time of the last read.
    last: Option<(u64, u64)>,
}

impl UsageMeter {
    pub fn read(&mut self) -> HostUsage {
        let disk = rustix::fs::statvfs("/").ok();
        let disk = disk.as_ref();
        let percent = |free: u64, all: u64| {
            let free_percent = (free * 100).checked_div(all).unwrap_or(100);
            100_u64.saturating_sub(free_percent)
        };
        HostUsage {
            cpu_percent: self.cpu_percent().unwrap_or(0),
            memory_percent: memory().map_or(0, |(free, all)| percent(free, all)),
            disk_percent: disk.map_or(0, |disk| percent(disk.f_bavail, disk.f_blocks)),
            disk_mb: disk.map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize) >> 20),
        }
    }

    fn cpu_percent(&mut self) -> Option<u64> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let times = text.lines().next()?.split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        let (idle, all) = (*times.get(3)? + *times.get(4)?, times.iter().sum::<u64>());
        let (last_idle, last_all) = self.last.replace((idle, all))?;
        let passed = all.checked_sub(last_all)?;
        let idle = (idle.checked_sub(last_idle)? * 100).checked_div(passed)?;
        Some(100_u64.saturating_sub(idle))
    }
}

/// Available and all memory, kB.
fn memory() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((field("MemAvailable:")?, field("MemTotal:")?))
}
