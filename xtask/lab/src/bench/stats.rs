//! Medians, and how sure they are.
//!
//! Nothing is thrown away: outliers stay, and a median does not mind them. What cannot be computed
//! is an error, never a NaN.

use anyhow::{Context, Result, bail, ensure};

use super::record::Round;

/// The share of the resampled medians that an interval leaves out on each side.
const TAIL: f64 = 0.025;
/// With fewer values not even their whole range covers the median in 95 of 100 cases
/// (1 - 2 · 2⁻⁶ = 0.97, with five values 0.94).
const LEAST_FOR_INTERVAL: usize = 6;

/// A median of several looks at the same quantity.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    pub median: f64,
    /// Where the median is to be found with a confidence of 95 %; `None` of fewer than six values.
    pub interval: Option<Interval>,
    /// The lowest and the highest value.
    pub spread: Interval,
    pub count: usize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quartiles {
    pub first: f64,
    pub median: f64,
    pub third: f64,
}

impl Estimate {
    pub fn of(values: &[f64]) -> Result<Self> {
        let sorted = sorted(values)?;
        let spread = Interval {
            low: sorted[0],
            high: sorted[sorted.len() - 1],
        };
        Ok(Self {
            median: at(&sorted, 0.5),
            interval: (sorted.len() >= LEAST_FOR_INTERVAL).then(|| bootstrap(&sorted)),
            spread,
            count: sorted.len(),
        })
    }

    /// The interval, or the whole spread where there is none.
    pub fn widest(&self) -> Interval {
        self.interval.unwrap_or(self.spread)
    }
}

pub fn median(values: &[f64]) -> Result<f64> {
    Ok(at(&sorted(values)?, 0.5))
}

/// Between two values in proportion, as R's type 7 and numpy do.
pub fn quartiles(values: &[f64]) -> Result<Quartiles> {
    let sorted = sorted(values)?;
    Ok(Quartiles {
        first: at(&sorted, 0.25),
        median: at(&sorted, 0.5),
        third: at(&sorted, 0.75),
    })
}

/// What each round has of a quantity.
pub fn each(rounds: &[Round], quantity: fn(&Round) -> f64) -> Result<Vec<f64>> {
    let values = rounds.iter().enumerate().map(|(number, round)| {
        ensure!(round.operations > 0, "round {number} has no operations");
        Ok(quantity(round))
    });
    values.collect()
}

/// Round `i` of the one by round `i` of the other, which was made beside it.
pub fn ratios(of: &[Round], to: &[Round], quantity: fn(&Round) -> f64) -> Result<Vec<f64>> {
    ensure!(
        of.len() == to.len(),
        "{} rounds cannot be paired with {}",
        of.len(),
        to.len()
    );
    let of = each(of, quantity)?;
    let to = each(to, quantity).context("of what is compared with")?;
    let pairs = of.iter().zip(&to).enumerate();
    pairs
        .map(|(number, (of, to))| {
            ensure!(
                *to > 0.0,
                "round {number} of what is compared with took no time"
            );
            Ok(of / to)
        })
        .collect()
}

fn sorted(values: &[f64]) -> Result<Vec<f64>> {
    ensure!(!values.is_empty(), "there are no values");
    if let Some(odd) = values.iter().find(|value| !value.is_finite()) {
        bail!("{odd} is not a number to compute with");
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(sorted)
}

/// The quantile of values that are sorted and at least one.
fn at(sorted: &[f64], quantile: f64) -> f64 {
    let place = quantile * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

/// The percentile interval of the bootstrap: draw as many values with repetition, take the median,
/// and see between which values 95 % of such medians are.
///
/// Nothing is drawn, because the outcome is known. A draw is one of the `k` lowest of `n` values
/// with the probability `k / n`, so the resampled median is among them as often as more than half
/// of `n` such draws are. That is a binomial distribution, and the result is what drawing for ever
/// would come to.
fn bootstrap(sorted: &[f64]) -> Interval {
    let count = sorted.len();
    // An even number has two middles, and between them lies the median. The lower one bounds it
    // below, the upper one above; that makes the interval a little wider.
    let [lower, upper] = [count.div_ceil(2), count / 2 + 1];
    let value = |middle: usize, share: f64| {
        let rank = (1..count).find(|&rank| at_least(middle, count, rank) >= share);
        sorted[rank.unwrap_or(count) - 1]
    };
    Interval {
        low: value(lower, TAIL),
        high: value(upper, 1.0 - TAIL),
    }
}

/// The probability that at least `least` of `count` draws are among the `rank` lowest of `count`
/// values; `rank` is more than 0 and less than `count`.
fn at_least(least: usize, count: usize, rank: usize) -> f64 {
    let chance = rank as f64 / count as f64;
    let (yes, no) = (chance.ln(), (1.0 - chance).ln());
    // By logarithms: the powers alone would be too small for a number.
    let mut ways = 0.0;
    let mut sum = 0.0;
    for hits in 0..=count {
        if hits > 0 {
            ways += ((count - hits + 1) as f64 / hits as f64).ln();
        }
        if hits >= least {
            sum += (ways + hits as f64 * yes + (count - hits) as f64 * no).exp();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random numbers that a seed makes again: splitmix64.
    struct SplitMix(u64);

    impl SplitMix {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    fn round(operations: u64, elapsed: u64) -> Round {
        Round {
            operations,
            elapsed,
            cpu: elapsed,
            p50: 0,
            p99: 0,
            p999: 0,
        }
    }

    #[test]
    fn middle_of_an_odd_and_an_even_number() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5);
        assert_eq!(median(&[7.0]).unwrap(), 7.0);
    }

    #[test]
    fn quarters_between_values() {
        let all = quartiles(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((all.first, all.median, all.third), (1.75, 2.5, 3.25));
    }

    #[test]
    fn an_outlier_stays_and_does_not_move_the_median() {
        let values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 900.0];
        let estimate = Estimate::of(&values).unwrap();
        assert_eq!(estimate.median, 1.3);
        assert_eq!(estimate.spread.high, 900.0);
        assert_eq!(estimate.count, 7);
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let estimate = Estimate::of(&[1.5; 9]).unwrap();
        let same = Interval {
            low: 1.5,
            high: 1.5,
        };
        assert_eq!(estimate.interval, Some(same));
        assert_eq!(estimate.spread, same);
    }

    #[test]
    fn too_few_values_for_an_interval() {
        assert_eq!(Estimate::of(&[1.0]).unwrap().interval, None);
        let five = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(five.interval, None);
        assert_eq!(
            five.widest(),
            Interval {
                low: 1.0,
                high: 5.0
            }
        );
        assert!(Estimate::of(&[1.0; 6]).unwrap().interval.is_some());
    }

    /// The ranks of the exact interval of a median, from the binomial distribution: of 0, 1 … 100
    /// it is 40 to 60.
    #[test]
    fn the_interval_of_known_ranks() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        let interval = Estimate::of(&values).unwrap().interval.unwrap();
        assert!((38.0..=42.0).contains(&interval.low), "{interval:?}");
        assert!((58.0..=62.0).contains(&interval.high), "{interval:?}");
    }

    /// Of many samples whose median is known, the interval has to hold it in about 95 of 100.
    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        let mut random = SplitMix(7);
        // Exponential, so lopsided as times are; its median is ln 2.
        let mut draw = || {
            -((random.next() >> 11) as f64 + 0.5)
                .mul_add(2f64.powi(-53), 0.0)
                .ln()
        };
        let samples = 2000;
        let held = (0..samples).filter(|_| {
            let sample: Vec<f64> = (0..25).map(|_| draw()).collect();
            let interval = Estimate::of(&sample).unwrap().interval.unwrap();
            (interval.low..=interval.high).contains(&2f64.ln())
        });
        let held = held.count() as f64 / f64::from(samples);
        assert!((0.93..=0.98).contains(&held), "{held}");
    }

    #[test]
    fn the_interval_is_what_drawing_comes_to() {
        let mut random = SplitMix(3);
        let sorted: Vec<f64> = (0..21).map(|i| f64::from(i * i)).collect();
        let medians: Vec<f64> = (0..20_000)
            .map(|_| {
                let mut drawn: Vec<usize> =
                    (0..21).map(|_| (random.next() % 21) as usize).collect();
                *drawn.select_nth_unstable(10).1
            })
            .map(|middle| sorted[middle])
            .collect();
        let medians = super::sorted(&medians).unwrap();
        let interval = bootstrap(&sorted);
        assert_eq!(interval.low, at(&medians, TAIL).round());
        assert_eq!(interval.high, at(&medians, 1.0 - TAIL).round());
    }

    #[test]
    fn shares_of_a_binomial_distribution() {
        // A coin: at least 2 of 4 heads are 11 of 16 outcomes.
        assert!((at_least(2, 4, 2) - 11.0 / 16.0).abs() < 1e-12);
        assert!((at_least(0, 9, 4) - 1.0).abs() < 1e-12);
        assert!((at_least(2, 2, 1) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn ratios_are_of_neighbours() {
        let of = [round(10, 200), round(10, 600)];
        let to = [round(10, 100), round(20, 600)];
        assert_eq!(
            ratios(&of, &to, Round::per_operation).unwrap(),
            vec![2.0, 2.0]
        );
    }

    #[test]
    fn what_cannot_be_computed_is_an_error() {
        assert!(median(&[]).is_err());
        assert!(Estimate::of(&[1.0, f64::NAN]).is_err());
        assert!(quartiles(&[f64::INFINITY]).is_err());
        let fine = [round(1, 10)];
        let idle = [round(0, 10)];
        for (of, to) in [(&idle, &fine), (&fine, &idle), (&fine, &[round(1, 0)])] {
            assert!(ratios(of, to, Round::per_operation).is_err());
        }
        let error = ratios(&fine, &[round(1, 10); 2], Round::per_operation).unwrap_err();
        assert_eq!(error.to_string(), "1 rounds cannot be paired with 2");
    }
}
