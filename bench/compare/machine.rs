//! The machine as it is: how busy a core was, what a process occupies, and one line that names it
//! all.
//!
//! The headline divisor of the comparison is `busy` of the server's core out of `/proc/stat`: on
//! loopback the receiver's TCP work is charged to the sender, so the CPU time of a process alone
//! would mislead.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use weir_testkit::sys;

/// Which core the server and which the generator runs on; `None` leaves both to the scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub pinned: bool,
    pub count: usize,
}

impl Cores {
    pub const SERVER: usize = 0;
    pub const GENERATOR: usize = 1;

    pub fn server(self) -> Option<usize> {
        self.pinned.then_some(Cores::SERVER)
    }

    pub fn generator(self) -> Option<usize> {
        self.pinned.then_some(Cores::GENERATOR)
    }
}

/// `USER_HZ`: the kernel's promise to user space on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields of a `cpu` line of `/proc/stat`: user nice system idle iowait irq softirq steal ..
const BUSY: &[usize] = &[0, 1, 2, 5, 6];
const KERNEL: &[usize] = &[2, 5, 6];

/// Seconds of these fields in the line of one core, or of all (`None`).
fn seconds_in(stat: &str, core: Option<usize>, fields: &[usize]) -> f64 {
    let name = core.map_or_else(|| "cpu".to_owned(), |core| format!("cpu{core}"));
    let Some(line) = stat
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name.as_str()))
    else {
        return 0.0;
    };
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    fields.iter().filter_map(|&at| ticks.get(at)).sum::<f64>() / TICKS_PER_SECOND
}

fn busy_in(stat: &str, core: Option<usize>) -> f64 {
    seconds_in(stat, core, BUSY)
}

/// (user, system) seconds in the text of `/proc/PID/stat`; the name in it may hold blanks and
/// parentheses.
fn process_seconds(stat: &str) -> (f64, f64) {
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(11)
        .map(|field| field.parse::<f64>().unwrap_or(0.0) / TICKS_PER_SECOND);
    (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
}

/// The kernel's part of all CPU time these processes have used.
pub fn kernel_share(pids: &[u32]) -> f64 {
    let (user, system) = pids
        .iter()
        .map(|pid| {
            process_seconds(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default())
        })
        .fold((0.0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
    system / (user + system).max(1e-9)
}

/// The block device under a path.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    major: u32,
    minor: u32,
}

impl Disk {
    /// `None` where there is none (tmpfs, overlays, network).
    pub fn under(path: &std::path::Path) -> Option<Disk> {
        let device = fs::metadata(path).ok()?.dev();
        let disk = Disk {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        };
        let lines = fs::read_to_string("/proc/diskstats").ok()?;
        disk.written_in(&lines).map(|_| disk)
    }

    /// Bytes written and flushes completed since the machine started.
    fn written_in(self, diskstats: &str) -> Option<(f64, f64)> {
        diskstats.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let device = |at: usize| fields.get(at)?.parse::<u32>().ok();
            let count = |at: usize| fields.get(at)?.parse::<f64>().ok();
            if device(0)? != self.major || device(1)? != self.minor {
                return None;
            }
            // Columns of Documentation/admin-guide/iostats.rst, sectors of 512 bytes.
            Some((count(9)? * 512.0, count(18)?))
        })
    }
}

/// Share of all cores that is busy over `time`, while the harness itself does nothing.
pub fn busy_for(time: std::time::Duration) -> f64 {
    let read = || fs::read_to_string("/proc/stat").unwrap_or_default();
    let (before, start) = (busy_in(&read(), None), std::time::Instant::now());
    std::thread::sleep(time);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let after = read();
    let cores = after
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .count()
        .saturating_sub(1)
        .max(cores);
    (busy_in(&after, None) - before) / start.elapsed().as_secs_f64() / cores as f64
}

/// A stopwatch over the server's core (unpinned: all cores less the generator's own CPU time), the
/// generator's core, and, exact to the nanosecond, the server's processes.
#[derive(Clone)]
pub struct Meter {
    pub cores: Cores,
    pub pids: Vec<u32>,
    /// Counts what is written to it, too.
    pub disk: Option<Disk>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub server: f64,
    /// The part of `server` inside the kernel, interrupts included.
    pub kernel: f64,
    pub generator: f64,
    pub exact: f64,
    pub bytes_written: f64,
    pub flushes: f64,
}

impl Reading {
    pub fn kernel_share(&self) -> f64 {
        self.kernel / self.server.max(1e-9)
    }
}

impl Meter {
    pub fn read(&self) -> Reading {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let own = sys::cpu_seconds(std::process::id());
        let (server, kernel) = match self.cores.server() {
            Some(core) => (
                busy_in(&stat, Some(core)),
                seconds_in(&stat, Some(core), KERNEL),
            ),
            None => {
                let (_, system) =
                    process_seconds(&fs::read_to_string("/proc/self/stat").unwrap_or_default());
                (
                    busy_in(&stat, None) - own,
                    seconds_in(&stat, None, KERNEL) - system,
                )
            }
        };
        let (bytes_written, flushes) = self
            .disk
            .and_then(|disk| {
                disk.written_in(&fs::read_to_string("/proc/diskstats").unwrap_or_default())
            })
            .unwrap_or_default();
        let generator = self
            .cores
            .generator()
            .map_or(own, |core| busy_in(&stat, Some(core)));
        Reading {
            server,
            kernel,
            generator,
            bytes_written,
            flushes,
            exact: self.pids.iter().map(|&pid| sys::cpu_seconds(pid)).sum(),
        }
    }
}

impl std::ops::Sub for Reading {
    type Output = Reading;
    fn sub(self, earlier: Reading) -> Reading {
        Reading {
            server: self.server - earlier.server,
            kernel: self.kernel - earlier.kernel,
            bytes_written: self.bytes_written - earlier.bytes_written,
            flushes: self.flushes - earlier.flushes,
            generator: self.generator - earlier.generator,
            exact: self.exact - earlier.exact,
        }
    }
}

/// A process and all its descendants (nginx and PostgreSQL work in children).
pub fn family(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while at < pids.len() {
        let pid = pids[at];
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        at += 1;
    }
    pids
}

/// Resident bytes of a family of processes.
pub fn resident_bytes(pids: &[u32]) -> f64 {
    pids.iter()
        .map(|pid| {
            kilobytes_in(
                &fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(),
                "VmRSS:",
            ) * 1024.0
        })
        .sum()
}

/// Kernel memory in slabs (sockets of both ends among it).
pub fn slab_bytes() -> f64 {
    kilobytes_in(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "Slab:",
    ) * 1024.0
}

fn kilobytes_in(text: &str, key: &str) -> f64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}

/// File system type under a path: figures of a RAM disk would be meaningless for durability.
pub fn file_system(path: &std::path::Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or_else(|| "unknown".into(), |(_, kind)| kind.to_owned())
}

/// Processor, cores, memory, kernel, file system: what a figure must be read with.
pub fn line(scratch: &std::path::Path, cores: usize) -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split(':').nth(1))
        .unwrap_or(" unknown processor")
        .trim()
        .to_owned();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = kilobytes_in(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemTotal:",
    ) / 1024.0
        / 1024.0;
    let virtual_machine = if processor.contains("hypervisor") {
        " (virtual)"
    } else {
        ""
    };
    format!(
        "machine: {model}{virtual_machine}, {cores} cores, {memory:.0} GiB, Linux {}, {} for the \
         data",
        kernel.trim(),
        file_system(scratch)
    )
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // the same computation gives the same bits
mod tests {
    use super::*;

    const STAT: &str = "cpu  300 20 100 5000 7 3 40 9 0 0\ncpu0 200 10 50 2000 5 1 30 4 0 0\ncpu1 \
     100 10 50 3000 2 2 10 5 0 0\n";

    #[test]
    fn busy_excludes_idle_waiting_and_stolen_time() {
        assert_eq!(busy_in(STAT, Some(0)), 2.91);
        assert_eq!(busy_in(STAT, Some(1)), 1.72);
        assert_eq!(busy_in(STAT, None), 4.63);
        assert_eq!(busy_in(STAT, Some(7)), 0.0);
        assert_eq!(seconds_in(STAT, Some(0), KERNEL), 0.81);
    }

    #[test]
    fn times_of_a_process_are_behind_its_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9";
        assert_eq!(process_seconds(stat), (1.5, 0.5));
        assert_eq!(process_seconds(""), (0.0, 0.0));
    }

    #[test]
    fn a_disk_is_found_by_its_numbers() {
        const DISKS: &str = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n 254       0 vda 1 \
             2 3 4 5 6 1000 8 0 10 11 12 13 14 15 77 17\n";
        let disk = |major| Disk { major, minor: 0 };
        assert_eq!(disk(254).written_in(DISKS), Some((512_000.0, 77.0)));
        assert_eq!(disk(8).written_in(DISKS), None);
    }

    #[test]
    fn memory_lines_are_found_by_their_key() {
        assert_eq!(
            kilobytes_in("Name:\tx\nVmRSS:\t   512 kB\n", "VmRSS:"),
            512.0
        );
        assert_eq!(kilobytes_in("", "VmRSS:"), 0.0);
    }

    #[test]
    fn a_process_is_in_its_own_family_and_uses_memory() {
        let own = std::process::id();
        assert!(family(own).contains(&own));
        assert!(resident_bytes(&[own]) > 100_000.0);
    }
}
