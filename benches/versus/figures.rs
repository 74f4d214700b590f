//! Figures side by side: collected by round, printed with their medians and ratios.

/// The samples of one contestant, one a round.
pub(crate) struct Figures {
    name: String,
    samples: Vec<f64>,
    /// Processor seconds of its processes, if counted.
    cpu_s: Vec<f64>,
}

/// The unit of a sample. It says whether more is better.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    MibPerS,
    ReadsPerS,
    Seconds,
    Milliseconds,
    BytesPerByte,
    Percent,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::MibPerS => "MiB/s",
            Self::ReadsPerS => "reads/s",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::BytesPerByte => "bytes sent a byte asked",
            Self::Percent => "%",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::MibPerS | Self::ReadsPerS)
    }

    fn format(self, value: f64) -> String {
        match self {
            Self::MibPerS | Self::ReadsPerS => format!("{value:.0}"),
            Self::Percent => format!("{value:.1}"),
            Self::Milliseconds => format!("{value:.3}"),
            Self::Seconds | Self::BytesPerByte => format!("{value:.2}"),
        }
    }
}

impl Figures {
    pub(super) fn new(name: &str) -> Self {
        let (samples, cpu_s) = (Vec::new(), Vec::new());
        let name = name.to_owned();
        Self {
            name,
            samples,
            cpu_s,
        }
    }

    pub(crate) fn add(&mut self, sample: f64) {
        self.samples.push(sample);
    }

    pub(crate) fn add_cpu(&mut self, seconds: f64) {
        self.cpu_s.push(seconds);
    }
}

/// Returns the median: the middle value, or the mean of the two middle values. The result is NaN
/// without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the quantile at `share` (0 to 1), interpolated between its two neighbours. The upper
/// neighbour would favour the contestant with more if more is better. The result is NaN without
/// values.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().saturating_sub(1) as f64 * share;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// Returns how much better the first is than the other: the median of the rounds' ratios. The
/// figures of one round have the same conditions, and rounds differ.
fn advantage(unit: Unit, ours: &Figures, other: &Figures) -> f64 {
    let pairs = ours.samples.iter().zip(&other.samples);
    let ratios: Vec<f64> = pairs
        .map(|(ours, other)| {
            if unit.more_is_better() {
                ours / other
            } else {
                other / ours
            }
        })
        .collect();
    median(&ratios)
}

/// Prints all figures of one trial. The first are those of this p2pfs.
pub(super) fn report(what: &str, unit: Unit, all: &[Figures]) {
    println!("\n{what} [{}]", unit.name());
    for figures in all.iter().filter(|figures| !figures.samples.is_empty()) {
        let rounds: Vec<String> = figures.samples.iter().map(|s| unit.format(*s)).collect();
        let middle = unit.format(median(&figures.samples));
        let mut line = format!("  {:<22} {middle:>7}", figures.name);
        if !std::ptr::eq(figures, &raw const all[0]) {
            let ratio = advantage(unit, &all[0], figures);
            line += &format!("  p2pfs is {ratio:.2}x as good");
        }
        if !figures.cpu_s.is_empty() {
            line += &format!("  {:.2} s of processor", median(&figures.cpu_s));
        }
        println!("{line}  (rounds: {})", rounds.join(", "));
    }
}
