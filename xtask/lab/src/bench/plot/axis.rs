//! Where the marks of an axis are.

/// Axes that span more than that are logarithmic.
const WIDE: f64 = 8.0;

/// An axis of values that begins at 0, or a logarithmic one.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Axis {
    pub is_log: bool,
    /// In places, see [`Axis::place`].
    pub range: (f64, f64),
    /// Values.
    pub marks: Vec<f64>,
}

impl Axis {
    /// For values that are not negative.
    pub(super) fn of(lowest: f64, highest: f64) -> Self {
        if lowest > 0.0 && highest / lowest > WIDE {
            return Self::log(lowest, highest);
        }
        let step = step(highest / 6.0);
        let count = (highest * 1.05 / step).ceil().max(1.0);
        Self {
            is_log: false,
            range: (0.0, count * step),
            marks: (0..=count as u32)
                .map(|mark| f64::from(mark) * step)
                .collect(),
        }
    }

    fn log(lowest: f64, highest: f64) -> Self {
        let (first, last) = (lowest.log10().floor() as i32, highest.log10().ceil() as i32);
        let all = (first..=last).flat_map(|ten| [1.0, 2.0, 5.0].map(|by| by * 10f64.powi(ten)));
        let all: Vec<f64> = all.collect();
        let below = all.iter().rposition(|&mark| mark <= lowest * 0.9);
        let above = all.iter().position(|&mark| mark >= highest * 1.05);
        let marks = all[below.unwrap_or(0)..=above.unwrap_or(all.len() - 1)].to_vec();
        Self {
            is_log: true,
            range: (marks[0].log10(), marks[marks.len() - 1].log10()),
            marks,
        }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }

    pub(super) fn value(&self, place: f64) -> f64 {
        if self.is_log {
            10f64.powf(place)
        } else {
            place
        }
    }
}

/// Where the values of a sweep are on their axis: logarithmic, and 0, which has no logarithm, a
/// decade before the lowest other.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    values: Vec<u64>,
}

impl Steps {
    pub(super) fn new(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self { values }
    }

    pub(super) fn place(&self, value: u64) -> f64 {
        if value > 0 {
            return (value as f64).log10();
        }
        let lowest = self.values.iter().find(|&&value| value > 0);
        lowest.map_or(0.0, |&lowest| (lowest as f64).log10() - 1.0)
    }

    pub(super) fn places(&self) -> Vec<f64> {
        self.values.iter().map(|&value| self.place(value)).collect()
    }

    /// The value whose place this is.
    pub(super) fn value(&self, place: f64) -> Option<u64> {
        let mut values = self.values.iter().copied();
        values.find(|&value| (self.place(value) - place).abs() < 1e-6)
    }
}

/// 1, 2 or 5 times a power of ten, at least that much.
pub(super) fn step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let ten = 10f64.powf(least.log10().floor());
    let by = [1.0, 2.0, 5.0].into_iter().find(|by| by * ten >= least);
    by.unwrap_or(10.0) * ten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_axis_begins_at_0() {
        let axis = Axis::of(20.0, 31.0);
        assert!(!axis.is_log);
        assert_eq!(axis.marks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(axis.range, (0.0, 40.0));
    }

    #[test]
    fn a_wide_one_is_logarithmic_and_holds_everything() {
        let axis = Axis::of(21.0, 163.0 * 2.0);
        assert!(axis.is_log);
        assert_eq!(
            axis.marks,
            [10.0, 20.0, 50.0, 100.0, 200.0, 500.0].to_vec()[..].to_vec()
        );
        assert!((axis.value(axis.place(33.0)) - 33.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_but_zeros_has_an_axis() {
        let axis = Axis::of(0.0, 0.0);
        assert_eq!(axis.marks, [0.0, 1.0]);
    }

    #[test]
    fn zero_comes_before_the_lowest() {
        let steps = Steps::new(vec![1000, 0, 10_000]);
        assert_eq!(steps.places(), [2.0, 3.0, 4.0]);
        assert_eq!(steps.value(2.0), Some(0));
        assert_eq!(steps.value(2.5), None);
    }

    #[test]
    fn steps_of_an_axis() {
        for (least, expected) in [(0.04, 0.05), (1.0, 1.0), (3.0, 5.0), (6.0, 10.0)] {
            assert!((step(least) - expected).abs() < 1e-12, "{least}");
        }
    }
}
