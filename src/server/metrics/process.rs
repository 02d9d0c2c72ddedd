//! The resources of this process, as the Linux kernel reports them.

use super::Scrape;

#[cfg(not(target_os = "linux"))]
pub(super) fn add(_scrape: &mut Scrape) {}

/// Adds what can be read. A sandbox may hide some of it.
#[cfg(target_os = "linux")]
pub(super) fn add(scrape: &mut Scrape) {
    use std::{fs, time::Duration};

    use rustix::{
        param::{clock_ticks_per_second, page_size},
        process::{Resource, getrlimit},
    };

    use super::families;

    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // Without the descriptor that lists them.
        let open = descriptors.count().saturating_sub(1);
        scrape.add(&families::PROCESS_OPEN_FDS, &[], open);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        scrape.add(&families::PROCESS_MAX_FDS, &[], limit);
    }
    let Some(stat) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| Stat::parse(&text))
    else {
        return;
    };
    let per_second = clock_ticks_per_second().max(1);
    let ticks = |count: u64| Duration::from_millis(count * 1000 / per_second);
    scrape.add(&families::PROCESS_CPU, &[], ticks(stat.cpu_ticks));
    scrape.add(&families::PROCESS_VIRTUAL, &[], stat.virtual_bytes);
    let resident = stat.resident_pages * page_size() as u64;
    scrape.add(&families::PROCESS_RESIDENT, &[], resident);
    if let Some(boot) = fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| boot_time(&text))
    {
        let started_at = Duration::from_secs(boot) + ticks(stat.start_ticks);
        scrape.add(&families::PROCESS_START, &[], started_at);
    }
}

/// The fields that are read from `/proc/self/stat` (proc(5)).
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

#[cfg(target_os = "linux")]
impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program, in parentheses, may contain anything.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first one here is the third of the file.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Reads when the machine was started from `/proc/stat`, in seconds since 1970.
#[cfg(target_os = "linux")]
fn boot_time(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn name_of_program_may_contain_anything() {
        let text =
            "7 (a ) 1 2 (b) S 1 7 7 0 -1 4194560 1 2 3 4 50 8 0 0 20 0 3 0 900 4096 25 184467";
        let expected = Stat {
            cpu_ticks: 58,
            start_ticks: 900,
            virtual_bytes: 4096,
            resident_pages: 25,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000)
        );
    }
}
