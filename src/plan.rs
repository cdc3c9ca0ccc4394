//! What is due: windows, from the catalogue and the last commit; and how a first load is cut into windows while it runs.
//! Pure: no clock, no I/O.

use std::time::Duration;

use crate::catalog::{Mode, Resource};
use crate::clock::Timestamp;
use crate::names::ResourceName;
use crate::state::{Commit, Intervals, Window};

/// The filter under which something is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The first load's filter on the creation time.
    Created,
    /// The increments' filter on the change time (of a feed: the deletion time).
    Updated,
    /// None: the whole listing.
    Whole,
}

/// What is due for one resource, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Windows of the first load: what is not yet covered of everything before `started`.
    Load {
        /// When the load began: increments reach back to it.
        started: Timestamp,
        /// What is left, oldest first.
        gaps: Vec<Window>,
        /// Whether this run begins it, so that its start must be made durable first.
        begins: bool,
    },
    /// One complete unfiltered listing.
    Listing {
        /// When it begins.
        started: Timestamp,
    },
    /// What changed (of a feed: was deleted). The window is what gets covered; it is read from `reach` on.
    Increment {
        /// What will be covered.
        window: Window,
        /// Where reading begins: the window's start less the overlap.
        reach: Option<Timestamp>,
    },
    /// `--from/--to`: read again, covering nothing.
    Backfill {
        /// What is read.
        window: Window,
    },
}

/// What a person asked for beside the ordinary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Load everything anew.
    pub full: bool,
    /// Read this window again.
    pub backfill: Option<Window>,
}

/// Why a load is begun anew that nobody asked for, as a person is told; `None` where it is not. A table that was enabled after the
/// records it is taken from were loaded has no history yet, one that was left out for a while has fallen behind, and what was hidden
/// until now is old: no filter on changes finds any of it.
///
/// `last`: the resource's newest commit. `taken_out`: the tables that are taken out of its records in this run, and whether each
/// was ever written.
pub fn anew<'a>(
    last: Option<&Commit>,
    mut taken_out: impl Iterator<Item = (&'a ResourceName, bool)>,
    confidential: bool,
) -> Option<&'static str> {
    let last = last.filter(|l| l.load_started.is_some())?;
    if taken_out.any(|(name, written)| !written || !last.along.contains(name)) {
        return Some("a table taken out of it is new or was left out for a while");
    }
    (confidential && !last.confidential).then_some("confidential records are asked for and were not before")
}

/// What is due for `resource`, up to `bound`.
#[must_use]
pub fn due(resource: &Resource, last: Option<&Commit>, bound: Timestamp, overlap: Duration, wish: Wish) -> Vec<Work> {
    if let Some(window) = wish.backfill {
        let window = window.intersect(&Window::new(None, bound));
        let has_cursor = matches!(resource.mode, Mode::Incremental { .. } | Mode::Tombstones { .. });
        return if has_cursor && !window.is_empty() { vec![Work::Backfill { window }] } else { Vec::new() };
    }
    let last = last.filter(|_| !wish.full);
    match &resource.mode {
        Mode::Extracted { .. } | Mode::Children { .. } => Vec::new(),
        Mode::Full => vec![Work::Listing { started: bound }],
        Mode::Tombstones { .. } => {
            let covered = last.map(|c| c.covered.updated.clone()).unwrap_or_default();
            increments(&covered, Window::new(None, bound), overlap)
        }
        Mode::Incremental { load, .. } => {
            let Some((commit, started)) = last.and_then(|c| Some((c, c.load_started?))) else {
                return vec![match load {
                    Some(_) => Work::Load { started: bound, gaps: vec![Window::new(None, bound)], begins: true },
                    None => Work::Listing { started: bound },
                }];
            };
            if load.is_some() && !commit.load_done && commit.covered.created.is_empty() {
                // Begun and nothing covered: it begins again, by a clock that is right now.
                return vec![Work::Load { started: bound, gaps: vec![Window::new(None, bound)], begins: true }];
            }
            let mut work = increments(&commit.covered.updated, Window::new(Some(started), bound), overlap);
            if !commit.load_done {
                match load {
                    Some(_) => {
                        let gaps = commit.covered.created.gaps(Window::new(None, started));
                        work.push(Work::Load { started, gaps, begins: false });
                    }
                    None => work = vec![Work::Listing { started: bound }],
                }
            }
            work
        }
    }
}

fn increments(covered: &Intervals, within: Window, overlap: Duration) -> Vec<Work> {
    covered
        .gaps(within)
        .into_iter()
        .map(|window| Work::Increment { window, reach: window.from.map(|f| f.minus(overlap)) })
        .collect()
}

/// What part of a window is certain to be covered when the provider's own clock said `provider_now`: writes show up late, so
/// nothing closer to it than `lag` counts.
#[must_use]
pub fn certain(window: Window, provider_now: Option<Timestamp>, lag: Duration) -> Window {
    match provider_now {
        Some(now) => window.intersect(&Window::new(None, now.minus(lag))),
        None => window,
    }
}

/// First window of a load: a week shows how dense the recent past is, mostly for a page.
const FIRST: Duration = Duration::from_secs(7 * 86_400);
/// While no window has finished, each next one is so many times as long as the one before, and there are at most so many:
/// a window cut blindly can turn out to be most of the account, and then it is one long chain of pages.
const LADDER: i64 = 2;
const BLIND: usize = 3;
/// A density that stands on fewer rows is little more than a guess: the next window is at most four times the longest read.
const ROWS_FOR_TRUST: u64 = 8;
const STRETCH: i64 = 4;
/// A window that holds less than this part of what its neighbours let expect is taken for the beginning of the account:
/// everything older is read as one window, open below.
const THIN: f64 = 0.2;
/// Below this nobody had an account yet (reference 3.4): what is older is one window, open below.
const FLOOR: Timestamp = Timestamp::from_ms(1_262_304_000_000);
/// Rows wanted in a window: small enough that a killed run loses little and several spill side by side, large enough that the
/// half-empty last page of each window is a small part of it.
const FEWEST_ROWS: u64 = 2_000;
const MOST_ROWS: u64 = 5_000;

/// A window that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// Which.
    pub window: Window,
    /// Rows so far.
    pub rows: u64,
}

/// In which order a load's windows are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From now back: fewest requests, since the beginning of the account is not known.
    Falling,
    /// The years from now back, but within a year from its beginning on: as its file is sorted, so that it can be written while
    /// they are read. Costs a request or two a year.
    Rising,
}

/// Cuts what is left of a first load into windows, newest first, each sized by what its neighbours held. A window costs one
/// half-empty page, so there are few; they end together, because permits go to the one with most left ([`Splitter::left`]).
#[derive(Debug, Clone)]
pub struct Splitter {
    /// What is left, oldest first.
    gaps: Vec<Window>,
    /// Length of the last window cut.
    last: Option<i64>,
    finished: Vec<(Window, u64)>,
    rows: u64,
    /// The end of a window that held far less than its neighbours let expect.
    thin: Option<Timestamp>,
}

impl Splitter {
    /// A splitter of `gaps` (oldest first). `known` is a window that an earlier run read, with its rows.
    #[must_use]
    pub fn new(gaps: Vec<Window>, known: Option<(Window, u64)>) -> Self {
        Self { gaps, last: None, finished: known.into_iter().collect(), rows: 0, thin: None }
    }

    /// Whether everything was cut.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.gaps.is_empty()
    }

    /// What was not cut yet, oldest first.
    #[must_use]
    pub fn gaps(&self) -> &[Window] {
        &self.gaps
    }

    /// A window was read to its end.
    pub fn finished(&mut self, window: Window, rows: u64) {
        let expected = window.from.and_then(|from| {
            let (density, seen) = self.density(window.to, &[])?;
            (seen > ROWS_FOR_TRUST).then(|| density * (window.to.ms() - from.ms()) as f64)
        });
        // A few rows fewer than a few is chance; far fewer than hundreds is the end.
        if expected.is_some_and(|e| e >= 100.0 && (rows as f64) < THIN * e) {
            self.thin = self.thin.max(Some(window.to));
        }
        self.rows += rows;
        self.finished.push((window, rows));
    }

    /// Rows a millisecond next to `t`, by the two finished windows nearest to it; else by what active ones hold already. And
    /// on how many rows that stands.
    fn density(&self, t: Timestamp, active: &[Active]) -> Option<(f64, u64)> {
        // The two nearest, the nearer one first.
        let mut two: [Option<(i64, usize)>; 2] = [None; 2];
        for (i, (w, _)) in self.finished.iter().enumerate() {
            let Some(from) = w.from else { continue };
            let away = (from.ms() - t.ms()).abs().min((w.to.ms() - t.ms()).abs());
            if two[0].is_none_or(|(a, _)| away < a) {
                two = [Some((away, i)), two[0]];
            } else if two[1].is_none_or(|(a, _)| away < a) {
                two[1] = Some((away, i));
            }
        }
        let finished = two.into_iter().flatten().filter_map(|(_, i)| self.finished.get(i));
        let mut near: Vec<_> = finished.filter_map(|(w, n)| Some((w.from?, w.to, *n))).collect();
        if near.is_empty() {
            near = active
                .iter()
                .filter(|a| a.rows > 0)
                .filter_map(|a| Some((a.window.from?, a.window.to, a.rows)))
                .collect();
        }
        let length: i64 = near.iter().map(|(from, to, _)| to.ms() - from.ms()).sum();
        let rows: u64 = near.iter().map(|(_, _, n)| n).sum();
        (length > 0).then(|| (rows as f64 / length as f64, rows))
    }

    /// The next window to read while `active` ones are under way; `None` when all is cut, or it is wiser to wait for the first
    /// page of the first one.
    ///
    /// `most_rows` is what there is time for before a deadline; `u64::MAX` without one.
    pub fn next(&mut self, active: &[Active], most_rows: u64, order: Order) -> Option<Window> {
        let gap = *self.gaps.last()?;
        if order == Order::Rising
            && let Some(window) = self.rising(gap, active, most_rows)
        {
            return Some(window);
        }
        let length = match self.last {
            None if self.finished.is_empty() => i64::try_from(FIRST.as_millis()).unwrap_or(i64::MAX),
            Some(_) if self.finished.is_empty() && (active.iter().all(|a| a.rows == 0) || active.len() >= BLIND) => {
                return None;
            }
            Some(last) if self.finished.is_empty() => last.saturating_mul(LADDER),
            _ if self.thin.is_some_and(|thin| gap.to <= thin) => i64::MAX,
            last => {
                let last = last.unwrap_or(i64::MAX / 8);
                let (density, seen) = self.density(gap.to, active).unwrap_or((0.0, 0));
                let wanted = (self.rows / 4).clamp(FEWEST_ROWS, MOST_ROWS).min(most_rows) as f64;
                let rest = (gap.to.ms() - gap.from.unwrap_or(FLOOR).max(FLOOR).ms()).max(0);
                // By what was really seen, not by what was cut last: windows cut side by side must not stretch each other.
                let longest = self.finished.iter().filter_map(|(w, _)| Some(w.to.ms() - w.from?.ms())).max();
                let trust = if seen >= ROWS_FOR_TRUST { 200 } else { STRETCH };
                let stretched = longest.unwrap_or(last).saturating_mul(trust);
                if seen < ROWS_FOR_TRUST && !active.is_empty() {
                    return None;
                }
                if density * rest as f64 <= wanted / 2.0 && last >= 8 * FIRST.as_millis() as i64 {
                    // Hardly anything is left: one window for all of it.
                    i64::MAX
                } else if density == 0.0 {
                    stretched
                } else {
                    ((wanted / density) as i64).clamp(1, stretched)
                }
            }
        };
        let window = self.cut(gap, length);
        self.last = Some(window.from.map_or(i64::MAX / 8, |f| window.to.ms() - f.ms()).max(1));
        Some(window)
    }

    /// The next window from the beginning of the year in which `gap` ends: where there are many rows, and nothing has shown yet
    /// that the account began in it.
    fn rising(&mut self, gap: Window, active: &[Active], most_rows: u64) -> Option<Window> {
        let year = year_start(Timestamp::from_ms(gap.to.ms() - 1));
        let begin = gap.from.map_or(year, |from| from.max(year));
        let (density, seen) = self.density(begin, active)?;
        let length = gap.to.ms() - begin.ms();
        let windows = (density * length as f64 / FEWEST_ROWS.min(most_rows) as f64).round();
        if self.finished.is_empty()
            || seen < ROWS_FOR_TRUST
            || self.thin.is_some()
            || windows < 2.0 && gap.from < Some(year)
        {
            return None;
        }
        self.gaps.pop();
        if gap.from.is_none_or(|from| from < begin) {
            self.gaps.push(Window::new(gap.from, begin));
        }
        let end = match windows < 1.5 {
            true => gap.to,
            false => Timestamp::from_ms(begin.ms() + (length as f64 / windows) as i64),
        };
        if end < gap.to {
            self.gaps.push(Window::new(Some(end), gap.to));
        }
        self.last = Some((end.ms() - begin.ms()).max(1));
        Some(Window::new(Some(begin), end))
    }

    /// Takes about `length` off the newer end of `gap`, ending at a year's turn when one is near.
    fn cut(&mut self, gap: Window, length: i64) -> Window {
        self.gaps.pop();
        let mut from = Timestamp::from_ms(gap.to.ms().saturating_sub(length));
        let slack = length / 4;
        for turn in [year_start(from), year_start(Timestamp::from_ms(from.ms().saturating_add(366 * 86_400_000)))] {
            if (turn.ms() - from.ms()).abs() <= slack && turn < gap.to {
                from = turn;
                break;
            }
        }
        let short = gap.from.map_or(from <= FLOOR, |start| from.ms().saturating_sub(start.ms()) <= slack);
        if short {
            return gap;
        }
        self.gaps.push(Window::new(gap.from, from));
        Window::new(Some(from), gap.to)
    }

    /// About how many pages of `page` rows an active window still has, by its neighbours' density: who has most goes first.
    #[must_use]
    pub fn left(&self, active: &Active, page: u64) -> u32 {
        let page = page.max(1);
        let expected = active
            .window
            .from
            .and_then(|from| Some(self.density(active.window.to, &[])?.0 * (active.window.to.ms() - from.ms()) as f64));
        let pages = match expected {
            Some(rows) if rows > active.rows as f64 => (rows as u64 - active.rows).div_ceil(page),
            // Longer than expected: a quarter more of what it held so far.
            _ => active.rows / page / 4 + 1,
        };
        u32::try_from(pages).unwrap_or(u32::MAX / 2)
    }
}

fn year_start(t: Timestamp) -> Timestamp {
    let Ok(instant) = jiff::Timestamp::from_millisecond(t.ms()) else { return t };
    let year = instant.to_zoned(jiff::tz::TimeZone::UTC).year();
    let start = jiff::civil::date(year, 1, 1).to_zoned(jiff::tz::TimeZone::UTC);
    start.map_or(t, |z| Timestamp::from_ms(z.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);

    /// Plays a load against a made-up history; returns the windows cut and the pages read.
    fn play(rows_at: impl Fn(Window) -> u64, at_once: usize, order: Order) -> (Vec<Window>, u64) {
        let mut splitter = Splitter::new(vec![Window::new(None, NOW)], None);
        let mut active: Vec<(Active, u64)> = Vec::new();
        let (mut windows, mut pages) = (Vec::new(), 0);
        loop {
            while active.len() < at_once {
                let seen: Vec<Active> = active.iter().map(|(a, _)| *a).collect();
                let Some(window) = splitter.next(&seen, u64::MAX, order) else { break };
                windows.push(window);
                active.push((Active { window, rows: 0 }, rows_at(window)));
            }
            let Some(i) = (0..active.len()).max_by_key(|i| splitter.left(&active[*i].0, 100)) else { break };
            pages += 1;
            let (a, total) = &mut active[i];
            a.rows = (a.rows + 100).min(*total);
            if a.rows == *total {
                let (a, total) = active.swap_remove(i);
                splitter.finished(a.window, total);
            }
            assert!(windows.len() < 10_000);
        }
        assert!(splitter.is_done());
        (windows, pages)
    }

    /// `total` rows spread evenly over `years` before now.
    fn even(total: u64, years: i64) -> impl Fn(Window) -> u64 {
        move |w: Window| {
            let begin = NOW.ms() - years * 365 * DAY;
            let count = |t: i64| ((t - begin).max(0) as f64 / (NOW.ms() - begin) as f64 * total as f64) as u64;
            count(w.to.ms()) - w.from.map_or(0, |f| count(f.ms()))
        }
    }

    #[test]
    fn windows_are_few_and_pages_hardly_more_than_the_rows_ask_for() {
        use Order::{Falling, Rising};
        for (order, total, years, most_extra) in [
            (Falling, 0, 5, 4),
            (Falling, 1, 5, 4),
            (Falling, 200, 5, 5),
            (Falling, 20_000, 3, 9),
            (Falling, 20_000, 5, 9),
            (Falling, 20_000, 12, 12),
            (Falling, 1_000_000, 5, 260),
            (Rising, 0, 5, 4),
            (Rising, 200, 5, 5),
            (Rising, 20_000, 5, 14),
            (Rising, 100_000, 5, 60),
            (Rising, 100_000, 12, 60),
        ] {
            let (windows, pages) = play(even(total, years), 4, order);
            let extra = pages - total.div_ceil(100);
            let told =
                format!("{total} rows over {years} years, {order:?}: {extra} extra pages, {} windows", windows.len());
            assert!(extra <= most_extra, "{told}");
        }
    }

    #[test]
    fn a_year_rises_and_the_years_fall() {
        let (windows, _) = play(even(100_000, 5), 1, Order::Rising);
        let year = |w: &Window| year_start(Timestamp::from_ms(w.to.ms() - 1));
        for pair in windows.windows(2).skip(2) {
            // But for the year in which the account began.
            let [a, b] = pair else { continue };
            if year(b).ms() > NOW.ms() - 5 * 365 * DAY {
                let rises = year(a) == year(b) && Some(a.to) == b.from;
                assert!(rises || year(a) > year(b) && b.from == Some(year(b)), "{a:?} then {b:?}");
            }
        }
    }

    /// Plays a load in time: a permit every 100 ms, full bucket of 15 at first, answers after `latency_ms`. Returns the
    /// pages read, the windows cut, and the time over that of the bucket alone.
    fn timed(rows_at: impl Fn(Window) -> u64, latency_ms: u64, at_once: usize) -> (u64, usize, f64) {
        struct Chain {
            active: Active,
            total: u64,
            ready: u64,
            asked: bool,
        }
        let mut splitter = Splitter::new(vec![Window::new(None, NOW)], None);
        let mut chains: Vec<Chain> = Vec::new();
        // Look-ups take ten permits at the start.
        let (mut pages, mut windows, mut tokens, mut now) = (10u64, 0, 5.0, 0u64);
        loop {
            for c in chains.iter_mut().filter(|c| c.asked && c.ready <= now) {
                c.asked = false;
                c.active.rows = (c.active.rows + 100).min(c.total);
            }
            while let Some(i) = chains.iter().position(|c| !c.asked && c.ready > 0 && c.active.rows == c.total) {
                let c = chains.swap_remove(i);
                splitter.finished(c.active.window, c.total);
            }
            while chains.len() < at_once {
                let seen: Vec<Active> = chains.iter().map(|c| c.active).collect();
                let Some(window) = splitter.next(&seen, u64::MAX, Order::Falling) else { break };
                windows += 1;
                chains.push(Chain {
                    active: Active { window, rows: 0 },
                    total: rows_at(window),
                    ready: 0,
                    asked: false,
                });
            }
            if chains.is_empty() {
                break;
            }
            while tokens >= 1.0 {
                let waiting = (0..chains.len()).filter(|i| !chains[*i].asked);
                let Some(i) = waiting.max_by_key(|i| splitter.left(&chains[*i].active, 100)) else { break };
                chains[i].asked = true;
                chains[i].ready = now + latency_ms;
                tokens -= 1.0;
                pages += 1;
            }
            now += 5;
            tokens = f64::min(tokens + 0.05, 15.0);
        }
        (pages, windows, now as f64 / ((pages as f64 - 15.0) * 100.0))
    }

    #[test]
    fn a_load_takes_hardly_longer_than_the_bucket_alone() {
        for (latency, most) in [(5, 1.02), (100, 1.05), (250, 1.1), (1000, 1.15)] {
            // As many chains as fill the bucket, one more, and the spare ones of `sync::group`.
            let at_once = (latency as f64 / 100.0).ceil() as usize + 4;
            for (total, years) in [(20_000, 3), (20_000, 4), (20_000, 5), (20_000, 8), (20_000, 10)] {
                let (pages, windows, ratio) = timed(even(total, years), latency, at_once);
                let extra = pages - 10 - total / 100;
                let told = format!(
                    "{total} rows over {years} years at {latency} ms: {windows} windows, {extra} extra pages, {ratio:.3}"
                );
                assert!(ratio <= most && extra <= 10, "{told}");
            }
        }
    }

    proptest! {
        #[test]
        fn windows_cover_everything_once(total in 0u64..50_000, years in 1i64..15, at_once in 1usize..9, rising: bool) {
            let order = if rising { Order::Rising } else { Order::Falling };
            let (mut windows, _) = play(even(total, years), at_once, order);
            windows.sort();
            prop_assert_eq!(windows[0].from, None);
            prop_assert_eq!(windows.last().unwrap().to, NOW);
            for pair in windows.windows(2) {
                prop_assert_eq!(Some(pair[0].to), pair[1].from);
            }
        }

        #[test]
        fn what_is_certain_never_passes_the_providers_clock(to in 0i64..1000, now in 0i64..1000, lag in 0u64..100) {
            let w = certain(Window::new(None, Timestamp::from_ms(to)), Some(Timestamp::from_ms(now)), Duration::from_millis(lag));
            prop_assert!(w.to.ms() <= to && w.to.ms() <= now - lag as i64);
        }
    }
}
