//! Compares how long the same takes in several places, on a machine that does something else, too. What
//! is compared takes turns, one call each in an order of chance, and is looked at round by round: within a
//! round, what disturbs the machine disturbs all places alike. Of two that are alike, each is by so
//! much slower in as many rounds as the other, however the noise is distributed; so whether
//! a place is slower than a limit says is told by the signed ranks of the rounds' ratios (Wilcoxon, 1945).

#![allow(
    clippy::cast_precision_loss,
    reason = "rounds and calls are counted in thousands"
)]

use std::time::Duration;

/// How sure, in standard deviations: that a place is within the limit, of which 1.645 is once wrong in
/// twenty times for one that is just as slow as the limit, and next to never for one that is slower; and
/// that it is not, which is asked for several places, several times.
const SURE_WITHIN: f64 = 1.645;
const SURE_SLOWER: f64 = 3.0;
/// Rounds that are also looked at together. What makes few of the rounds slow, and those by far, is seen
/// there.
const TOGETHER: usize = 5;
/// Two that are alike differ by more than the limit in a greater share of the rounds than this: noise.
const NOISE: f64 = 0.1;

/// How long calls took.
#[derive(Debug, Default)]
pub struct Rounds {
    /// By round, then by place, in order.
    rounds: Vec<Vec<Vec<Duration>>>,
}

/// What is known of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It takes so much longer at most.
    Within,
    /// It takes longer than that.
    Slower,
    /// There were not rounds enough to say.
    Unknown,
}

/// What is asked of a place: that this share of its calls takes at most so many times as long as that share
/// of another's.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Whose calls.
    pub place: usize,
    /// Whose calls they are compared with.
    pub with: usize,
    /// Of all calls: 99 is the 99th percentile.
    pub percentile: usize,
    /// How many times.
    pub limit: f64,
}

impl Rounds {
    /// One round more: the times of each place.
    ///
    /// # Panics
    /// If a place has none.
    pub fn push(&mut self, mut round: Vec<Vec<Duration>>) {
        for times in &mut round {
            assert!(!times.is_empty(), "nothing was called");
            times.sort_unstable();
        }
        self.rounds.push(round);
    }

    /// How many there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// There were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// What these rounds say.
    #[must_use]
    pub fn verdict(&self, question: Question) -> Verdict {
        let [single, together] = [1, TOGETHER].map(|each| self.beyond(question, each));
        if single > SURE_SLOWER || together > SURE_SLOWER {
            Verdict::Slower
        } else if single < -SURE_WITHIN && together < 0.0 {
            Verdict::Within
        } else {
            Verdict::Unknown
        }
    }

    /// By how many standard deviations the signed ranks of the ratios, for each so many rounds together, are
    /// above what they were if ratios were as often above the limit as below. Three rounds never say enough.
    fn beyond(&self, question: Question, together: usize) -> f64 {
        let ratios = self.ratios(question, together);
        let mut logs: Vec<f64> = (ratios.iter())
            .map(|ratio| (ratio / question.limit).ln())
            .collect();
        logs.sort_by(|one, other| one.abs().total_cmp(&other.abs()));
        let ranked = logs.iter().zip(1..).filter(|(log, _)| **log > 0.0);
        let above: f64 = ranked.map(|(_, rank)| f64::from(rank)).sum();
        let count = logs.len() as f64;
        let all = count * (count + 1.0);
        let deviation = (all * (2.0 * count + 1.0) / 24.0).sqrt().max(0.5);
        (above - all / 4.0) / deviation
    }

    /// Two that are alike differ so often by more than the limit, one way or the other, that noise may
    /// be why nothing is known.
    #[must_use]
    pub fn noisy(&self, alike: Question) -> bool {
        let ratios = self.ratios(alike, 1);
        let differs = |ratio: f64| ratio > alike.limit || ratio < 1.0 / alike.limit;
        share(&ratios, differs) > NOISE
    }

    /// For people: the median over the rounds of what is asked, and of its ratio, and how many of the rounds
    /// are above the limit.
    #[must_use]
    pub fn told(&self, question: Question) -> String {
        let mut ratios = self.ratios(question, 1);
        ratios.sort_by(f64::total_cmp);
        let mut times: Vec<_> = (self.rounds.iter())
            .map(|round| at(&round[question.place], question.percentile))
            .collect();
        times.sort_unstable();
        let above = ratios.iter().filter(|ratio| **ratio > question.limit);
        format!(
            "p{} {:?}, {:.2} times as long, more than {} in {} of {} rounds",
            question.percentile,
            times[times.len() / 2],
            ratios[ratios.len() / 2],
            question.limit,
            above.count(),
            ratios.len()
        )
    }

    /// How many times as long calls took, for each so many rounds together.
    fn ratios(&self, question: Question, together: usize) -> Vec<f64> {
        let all = |rounds: &[Vec<Vec<Duration>>], place: usize| {
            let mut times: Vec<_> = rounds.iter().flat_map(|it| &it[place]).copied().collect();
            times.sort_unstable();
            at(&times, question.percentile).as_secs_f64()
        };
        let ratio = |rounds| all(rounds, question.place) / all(rounds, question.with);
        self.rounds.chunks_exact(together).map(ratio).collect()
    }
}

fn at(times: &[Duration], percentile: usize) -> Duration {
    times[(times.len() * percentile / 100).min(times.len() - 1)]
}

fn share(ratios: &[f64], is: impl Fn(f64) -> bool) -> f64 {
    let count = ratios.iter().filter(|ratio| is(**ratio)).count();
    count as f64 / (ratios.len() as f64).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: f64 = 1.25;
    /// The second place, compared with the first.
    const ASKED: Question = Question {
        place: 1,
        with: 0,
        percentile: 99,
        limit: LIMIT,
    };

    /// So many rounds of 200 calls of a millisecond and a bit, of which the machine makes a share wait for
    /// some milliseconds; of the second place's, `defect` says what becomes, by round and call.
    fn rounds(
        count: usize,
        (disturbed, seed): (f64, u64),
        defect: impl Fn(usize, usize) -> f64,
    ) -> Rounds {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut time = || {
            // Long tails, as schedulers make them.
            let wait = match chance.f64() < disturbed {
                true => -4.0 * chance.f64().max(1e-9).ln(),
                false => 0.0,
            };
            1.0 + 0.3 * chance.f64() + wait
        };
        let mut rounds = Rounds::default();
        for round in 0..count {
            let [mut one, mut other] = [Vec::new(), Vec::new()];
            for call in 0..200 {
                one.push(Duration::from_secs_f64(time() / 1e3));
                other.push(Duration::from_secs_f64(
                    (time() + defect(round, call)) / 1e3,
                ));
            }
            rounds.push(vec![one, other]);
        }
        rounds
    }

    #[test]
    fn what_is_alike_is_found_to_be_so_however_the_machine_is_disturbed() {
        for disturbed in [0.0, 0.003, 0.01, 0.03, 0.1, 0.3] {
            for seed in 0..5 {
                let of = |count| rounds(count, (disturbed, seed), |_, _| 0.0);
                let found = [25, 50, 100, 200].map(|count| of(count).verdict(ASKED));
                assert!(found.contains(&Verdict::Within), "{disturbed} {found:?}");
                assert!(!found.contains(&Verdict::Slower), "{disturbed} {found:?}");
            }
        }
        let quiet = rounds(25, (0.0, 1), |_, _| 0.0);
        assert!(quiet.verdict(ASKED) == Verdict::Within && !quiet.noisy(ASKED));
        assert!(rounds(25, (0.01, 1), |_, _| 0.0).noisy(ASKED));
        assert!(quiet.told(ASKED).ends_with("in 0 of 25 rounds"));
    }

    #[test]
    fn what_is_slower_is_never_found_to_be_alike() {
        for disturbed in [0.0, 0.003, 0.01] {
            for seed in 0..5 {
                // Each call is; two of a hundred are, by far; those of one round in four are.
                let each = rounds(100, (disturbed, seed), |_, _| 4.0);
                let few = rounds(100, (disturbed, seed), |_, call| {
                    if call % 50 == 0 { 20.0 } else { 0.0 }
                });
                let bursts = rounds(100, (disturbed, seed), |round, call| {
                    if round % 4 == 0 && call % 10 == 0 {
                        20.0
                    } else {
                        0.0
                    }
                });
                for found in [each, few, bursts] {
                    assert_eq!(found.verdict(ASKED), Verdict::Slower, "{disturbed} {seed}");
                    for look in [25, 50] {
                        let early = found.rounds[..look].to_vec();
                        let early = Rounds { rounds: early }.verdict(ASKED);
                        assert_ne!(early, Verdict::Within, "{disturbed} {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_few_rounds_say_nothing() {
        let few = rounds(3, (0.0, 1), |_, _| 0.0);
        assert_eq!(few.verdict(ASKED), Verdict::Unknown);
        let most = rounds(
            25,
            (0.0, 1),
            |round, _| if round % 5 < 2 { 2.0 } else { 0.0 },
        );
        assert_eq!(most.verdict(ASKED), Verdict::Unknown);
    }
}
