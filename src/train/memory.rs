//! How much memory the process has held, and whether a training step will fit into what there is.
//!
//! Takes what the system tells and what `host` counts; gives figures and a refusal that names the batch that would fit.

use super::TrainError;
use super::module::GraphModule;

const MIB: u64 = 1 << 20;

/// Bytes of the process for each byte that a step's tensors take at once: the arena keeps gaps between blocks of other sizes.
/// Measured: 1.02 where the images are most of it; small networks in small batches hold some tens of MiB beside them.
const GAPS: f64 = 1.15;

/// What a training run will hold beyond what the process holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Bytes of gradients and of the optimiser.
    pub fixed: u64,
    /// Bytes that tensors of an image of a batch take at once.
    pub per_image: u64,
    /// Images in a step.
    pub batch: usize,
}

/// The most memory that the process has held so far, in MiB, where the system tells (Linux).
pub fn peak_mib() -> Option<u64> {
    status("VmHWM:").map(|bytes| bytes / MIB)
}

/// Bytes that the process could still take, where the system tells (Linux): of the machine's memory, and of the limit that
/// its control group has.
pub fn available() -> Option<u64> {
    let machine = line(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number =
        |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    // Without a limit the file says `max`.
    let group = number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// A line for people with the memory that training will hold at most, on a device whose memory is the machine's.
///
/// # Errors
/// [`TrainError::Memory`] where that is more than there is.
pub fn check(module: &GraphModule, batch: usize, arch: bool) -> Result<Option<String>, TrainError> {
    let Some(need) = module.need(batch, arch) else { return Ok(None) };
    if let Some(available) = available() {
        need.fits(available)?;
    }
    Ok(Some(format!("memory: about {} MiB at most, with batches of {batch}", need.peak_mib())))
}

impl Need {
    /// In all.
    pub fn bytes(&self) -> u64 {
        self.fixed + (self.per_image as f64 * self.batch as f64 * GAPS) as u64
    }

    /// The most that the process will have held, in MiB.
    pub fn peak_mib(&self) -> u64 {
        (status("VmRSS:").unwrap_or(0) + self.bytes()) / MIB
    }

    /// # Errors
    /// [`TrainError::Memory`] where it is more than `available` bytes.
    pub fn fits(&self, available: u64) -> Result<(), TrainError> {
        if self.bytes() <= available {
            return Ok(());
        }
        let fits = available.saturating_sub(self.fixed) as f64 / (self.per_image.max(1) as f64 * GAPS);
        let (needed, available) = (self.bytes().div_ceil(MIB), available / MIB);
        Err(TrainError::Memory { batch: self.batch, needed, available, fits: fits as u64 })
    }
}

/// Bytes of a line of the process's status.
fn status(name: &str) -> Option<u64> {
    line(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The kB of a line, in bytes.
fn line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_does_not_fit_is_refused_with_one_that_does() {
        let need = |batch| Need { fixed: 100 * MIB, per_image: 10 * MIB, batch };
        let available = 1000 * MIB;
        need(78).fits(available).unwrap();
        let text = need(90).fits(available).unwrap_err().to_string();
        for word in ["batch_size 90:", "1135 MiB", "1000 MiB", "batch_size 78 "] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let text = need(1).fits(50 * MIB).unwrap_err().to_string();
        assert!(text.contains("not even one image"), "{text}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        let [peak, available] = [peak_mib().unwrap() * MIB, available().unwrap()];
        assert!(peak > MIB && available > MIB, "{peak} {available}");
        assert_eq!(line("MemTotal:  9 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 * 1024));
    }
}
