//! Numbers in a row, of which one is drawn, each as often as it is large. A binary indexed tree
//! (Fenwick 1994): to change one, to sum those before it and to find one takes logarithmic time.

/// The numbers, as a `Vec` with `push` and `swap_remove` holds them.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    /// Entry `i - 1` is the sum of those from `i - lowest(i)` up to, and without, `i`.
    sums: Vec<u64>,
    values: Vec<u64>,
    total: u64,
}

impl Shares {
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn push(&mut self, value: u64) {
        let index = self.sums.len() + 1;
        // What lies within this entry's reach, and the new one.
        let below = self.total - self.before(index - lowest(index));
        self.sums.push(below + value);
        self.values.push(value);
        self.total += value;
    }

    /// Takes one out; the last takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) {
        let Some(last) = self.values.last().copied() else {
            return;
        };
        self.set(index, last);
        self.values.pop();
        self.sums.pop();
        self.total -= last;
    }

    pub(super) fn set(&mut self, index: usize, value: u64) {
        let before = std::mem::replace(&mut self.values[index], value);
        self.total = self.total - before + value;
        let mut next = index + 1;
        while let Some(sum) = self.sums.get_mut(next - 1) {
            *sum = *sum - before + value;
            next += lowest(next);
        }
    }

    /// The sum of all before `index`.
    pub(super) fn before(&self, index: usize) -> u64 {
        let (mut sum, mut next) = (0, index);
        while next > 0 {
            sum += self.sums[next - 1];
            next -= lowest(next);
        }
        sum
    }

    /// The index within whose number `point` falls, if all are laid end to end.
    pub(super) fn find(&self, mut point: u64) -> Option<usize> {
        if point >= self.total {
            return None;
        }
        let mut found = 0;
        let mut step = 1 << self.sums.len().ilog2();
        while step > 0 {
            if let Some(sum) = self.sums.get(found + step - 1)
                && *sum <= point
            {
                point -= sum;
                found += step;
            }
            step /= 2;
        }
        Some(found)
    }
}

const fn lowest(index: usize) -> usize {
    index & index.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Change {
        Push(u64),
        Remove(usize),
        Set(usize, u64),
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            3 => (1..9_u64).prop_map(Change::Push),
            1 => any::<usize>().prop_map(Change::Remove),
            1 => (any::<usize>(), 1..9_u64).prop_map(|(index, value)| Change::Set(index, value)),
        ]
    }

    proptest! {
        #[test]
        fn every_point_falls_within_the_number_that_is_there(
            changes in proptest::collection::vec(any_change(), 0..60),
        ) {
            let (mut shares, mut plain) = (Shares::default(), Vec::new());
            for change in changes {
                match change {
                    Change::Push(value) => {
                        shares.push(value);
                        plain.push(value);
                    }
                    Change::Remove(index) if !plain.is_empty() => {
                        shares.swap_remove(index % plain.len());
                        plain.swap_remove(index % plain.len());
                    }
                    Change::Set(index, value) if !plain.is_empty() => {
                        let index = index % plain.len();
                        shares.set(index, value);
                        plain[index] = value;
                    }
                    Change::Remove(_) | Change::Set(..) => {}
                }
                let mut points = 0;
                for (index, value) in plain.iter().enumerate() {
                    prop_assert_eq!(shares.before(index), points);
                    prop_assert_eq!(shares.find(points), Some(index));
                    points += value;
                    prop_assert_eq!(shares.find(points - 1), Some(index));
                }
                prop_assert_eq!(shares.total(), points);
                prop_assert_eq!(shares.find(points), None);
            }
        }
    }
}
