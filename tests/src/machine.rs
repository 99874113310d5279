//! How busy the machine is, all processes together: a test that loads it must know whether it had
//! time to spare, else it would blame the mesh for what a neighbour does.

/// The machine's time since a moment.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    from: Times,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    idle: u64,
    all: u64,
}

impl Busy {
    /// Counts from now on.
    #[must_use]
    pub fn since_now() -> Self {
        Self { from: Times::now() }
    }

    /// The share of the time since then in which processors had nothing to do; 1 where the system
    /// does not say.
    #[must_use]
    pub fn spare(&self) -> f64 {
        let now = Times::now();
        let all = now.all.saturating_sub(self.from.all);
        if all == 0 {
            return 1.0;
        }
        now.idle.saturating_sub(self.from.idle) as f64 / all as f64
    }
}

impl Times {
    /// The first line of `/proc/stat` (`man 5 proc_stat`): user, nice, system, idle, iowait, irq,
    /// softirq, steal, all processors together.
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let numbers: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|number| number.parse().ok())
            .collect();
        Self {
            idle: numbers.get(3).copied().unwrap_or_default(),
            all: numbers.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_the_fourth_number() {
        let times = Times::parse("cpu  10 1 9 70 5 2 2 1 0 0\ncpu0 1 2 3 4\n");
        assert_eq!((times.idle, times.all), (70, 100));
        let nothing = Times::parse("");
        assert_eq!((nothing.idle, nothing.all), (0, 0));
    }
}
