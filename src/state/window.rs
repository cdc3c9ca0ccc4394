//! Half-open time windows and sets of them: plain values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A half-open interval `[from, to)`. `from: None` is open below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// First moment inside; `None` for "since ever".
    pub from: Option<Timestamp>,
    /// First moment no longer inside.
    pub to: Timestamp,
}

impl Window {
    /// `[from, to)`.
    #[must_use]
    pub fn new(from: Option<Timestamp>, to: Timestamp) -> Self {
        Self { from, to }
    }
    /// Whether no moment is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from.is_some_and(|f| f >= self.to)
    }
    /// The moments that are inside both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }
    }
    /// Whether `t` is inside.
    #[must_use]
    pub fn contains(&self, t: Timestamp) -> bool {
        self.from.is_none_or(|f| f <= t) && t < self.to
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "[{from}, {})", self.to),
            None => write!(f, "[…, {})", self.to),
        }
    }
}

/// A set of moments as sorted, disjoint windows that do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Window>", into = "Vec<Window>")]
pub struct Intervals(Vec<Window>);

impl From<Vec<Window>> for Intervals {
    fn from(windows: Vec<Window>) -> Self {
        // What an entry says may be long and in any order: each is looked at once.
        let mut sorted: Vec<Window> = windows.into_iter().filter(|w| !w.is_empty()).collect();
        sorted.sort_unstable_by_key(|w| (w.from, w.to));
        let mut set: Vec<Window> = Vec::with_capacity(sorted.len());
        for w in sorted {
            match set.last_mut() {
                Some(last) if w.from.is_none_or(|from| from <= last.to) => last.to = last.to.max(w.to),
                _ => set.push(w),
            }
        }
        Self(set)
    }
}

impl From<Intervals> for Vec<Window> {
    fn from(set: Intervals) -> Self {
        set.0
    }
}

impl Intervals {
    /// Adds the moments of `window`.
    pub fn add(&mut self, window: Window) {
        if window.is_empty() {
            return;
        }
        let mut merged = window;
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for w in self.0.drain(..) {
            let apart = merged.from.is_some_and(|f| w.to < f) || w.from.is_some_and(|f| merged.to < f);
            if apart {
                kept.push(w);
            } else {
                merged = Window { from: merged.from.min(w.from), to: merged.to.max(w.to) };
            }
        }
        kept.push(merged);
        kept.sort_unstable_by_key(|w| w.from);
        self.0 = kept;
    }

    /// Takes the moments of `window` out.
    pub fn cut(&mut self, window: Window) {
        if window.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for w in self.0.drain(..) {
            if let Some(from) = window.from {
                left.push(Window { from: w.from, to: w.to.min(from) });
            }
            left.push(Window { from: w.from.max(Some(window.to)), to: w.to });
        }
        left.retain(|w| !w.is_empty());
        self.0 = left;
    }

    /// The parts of `within` that are not in the set, oldest first.
    #[must_use]
    pub fn gaps(&self, within: Window) -> Vec<Window> {
        let mut gaps = Vec::new();
        let mut rest = within;
        for w in &self.0 {
            if rest.is_empty() {
                break;
            }
            if w.from.is_some_and(|f| f >= rest.to) || rest.from.is_some_and(|f| w.to <= f) {
                continue;
            }
            if let Some(from) = w.from {
                let gap = Window { from: rest.from, to: from };
                if !gap.is_empty() && gap.from != Some(from) {
                    gaps.push(gap);
                }
            }
            rest.from = Some(w.to);
        }
        if !rest.is_empty() {
            gaps.push(rest);
        }
        gaps
    }

    /// The windows, oldest first.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.0
    }
    /// Whether there is nothing in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The end of the newest window.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.0.last().map(|w| w.to)
    }
    /// Whether `t` is in the set.
    #[must_use]
    pub fn contains(&self, t: Timestamp) -> bool {
        self.0.iter().any(|w| w.contains(t))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn window() -> impl Strategy<Value = Window> {
        (proptest::option::weighted(0.9, 0i64..60), 0i64..60).prop_map(|(f, t)| Window::new(f.map(at), at(t)))
    }

    proptest! {
        #[test]
        fn a_moment_is_in_the_set_when_it_is_in_a_window(windows in proptest::collection::vec(window(), 0..12)) {
            let set = Intervals::from(windows.clone());
            for t in -5..70 {
                let inside = windows.iter().any(|w| w.contains(at(t)));
                prop_assert_eq!(set.contains(at(t)), inside, "{} in {:?}", t, windows);
            }
            for pair in set.windows().windows(2) {
                prop_assert!(pair[1].from.is_some_and(|f| pair[0].to < f), "{:?}", set);
            }
        }

        #[test]
        fn gaps_and_set_share_nothing_and_make_the_whole(windows in proptest::collection::vec(window(), 0..12), within in window()) {
            let set = Intervals::from(windows);
            let gaps = set.gaps(within);
            for t in -5..70 {
                let in_gap = gaps.iter().filter(|g| g.contains(at(t))).count();
                let expected = usize::from(within.contains(at(t)) && !set.contains(at(t)));
                prop_assert_eq!(in_gap, expected, "{} in gaps {:?} of {:?} within {}", t, gaps, set, within);
            }
            let mut filled = set.clone();
            gaps.iter().for_each(|g| filled.add(*g));
            prop_assert!(filled.gaps(within).is_empty());
        }

        #[test]
        fn what_is_cut_is_out_and_nothing_else(windows in proptest::collection::vec(window(), 0..12), cut in window()) {
            let set = Intervals::from(windows);
            let mut less = set.clone();
            less.cut(cut);
            for t in -5..70 {
                let expected = set.contains(at(t)) && !cut.contains(at(t));
                prop_assert_eq!(less.contains(at(t)), expected, "{} in {:?} less {:?}", t, set, cut);
            }
        }

        #[test]
        fn a_set_survives_its_json(windows in proptest::collection::vec(window(), 0..12)) {
            let set = Intervals::from(windows);
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<Intervals>(&text).unwrap(), set);
        }
    }
}
