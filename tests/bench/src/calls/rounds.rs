//! The measurement itself: the pairs in turn, round after round, beginning with another pair in
//! each. First come all rounds of the closed loop, then all at rates, then all in bulk, and last new
//! connections: so what a queue at too high a rate or large messages leave behind is no memory of the load before.

use anyhow::{Context as _, Result};

use super::args::Args;
use super::course::Course;
use super::report::{Machine, Report, Settings};
use crate::message;
use crate::pair::Pair;

/// Runs the benchmark. The pairs are the caller's, who stops them however this ends.
pub(crate) async fn run(args: &Args, pairs: &mut Vec<Pair>) -> Result<Report> {
    let settings = Settings::of(args)?;
    let mut courses = start(args, pairs).await?;
    for round in 0..args.rounds() {
        for index in order(round, courses.len()) {
            let (pair, course) = (&mut pairs[index], &mut courses[index]);
            let title = format!(
                "round {} of {}: {}",
                round + 1,
                args.rounds(),
                pair.kind.name()
            );
            let result = course.round(pair, args).await;
            // A process that has ended is why everything else failed, so it is told first.
            let result = pair.must_live().and(result);
            let result = result.with_context(|| title.clone())?;
            let (speed, failed) = (result.figures.calls_per_second, result.failed);
            eprintln!("{title:24} {speed:9.0} calls/s, {failed} failed");
            course.rounds.push(result);
        }
    }
    if let Some(time) = args.open_time()? {
        for round in 0..args.rounds() {
            for index in order(round, courses.len()) {
                let (pair, course) = (&mut pairs[index], &mut courses[index]);
                let (rounds, kind) = (args.rounds(), pair.kind.name());
                let title = format!("rates {} of {rounds}: {kind}", round + 1);
                let result = course.at_rates(round as usize, args, time).await;
                let result = pair.must_live().and(result);
                result.with_context(|| title.clone())?;
                eprintln!("{title}");
            }
        }
    }
    let bulk = args.large_calls() + args.stream_messages() > 0;
    for round in 0..if bulk { args.rounds() } else { 0 } {
        for index in order(round, courses.len()) {
            let (pair, course) = (&mut pairs[index], &mut courses[index]);
            let title = format!(
                "bulk {} of {}: {}",
                round + 1,
                args.rounds(),
                pair.kind.name()
            );
            let result = course.bulk(pair, args).await;
            let result = pair.must_live().and(result);
            let result = result.with_context(|| title.clone())?;
            eprintln!(
                "{title:24} {} answered, {} failed",
                result.answered, result.failed
            );
            course.bulk_rounds.push(result);
        }
    }
    for round in 0..if args.handshakes() > 0 {
        args.rounds()
    } else {
        0
    } {
        for index in order(round, courses.len()) {
            let (pair, course) = (&mut pairs[index], &mut courses[index]);
            let (rounds, kind) = (args.rounds(), pair.kind.name());
            let title = format!("connections {} of {rounds}: {kind}", round + 1);
            let result = course.handshakes(pair, args).await;
            let result = pair.must_live().and(result);
            let Some(result) = result.with_context(|| title.clone())? else {
                continue;
            };
            eprintln!(
                "{title:24} {} answered, {} failed",
                result.answered, result.failed
            );
            course.handshake_rounds.push(result);
        }
    }
    let courses = courses.into_iter().zip(pairs);
    let reports = courses
        .map(|(course, pair)| course.report(pair))
        .collect::<Result<_>>()?;
    Ok(Report::new(settings, Machine::here(), reports))
}

/// Each round begins with another pair: none has always the same one before it.
fn order(round: u32, pairs: usize) -> impl Iterator<Item = usize> {
    (0..pairs).map(move |turn| (turn + round as usize) % pairs)
}

/// Starts all pairs, so that each is there, idle, while another is measured.
async fn start(args: &Args, pairs: &mut Vec<Pair>) -> Result<Vec<Course>> {
    let (kinds, programs) = args.pairs()?;
    for program in [&programs.sidelane, &programs.sidecar, &programs.envoy] {
        program
            .iter()
            .for_each(|path| eprintln!("measures {}", path.display()));
    }
    let frame = message::frame(args.payload);
    let mut courses = Vec::new();
    for kind in kinds {
        eprintln!("starting {}", kind.name());
        pairs.push(Pair::new(kind));
        let pair = pairs.last_mut().context("no pair")?;
        let course = Course::start(pair, &programs, &frame).await;
        courses.push(course.with_context(|| format!("cannot start {}", kind.name()))?);
    }
    Ok(courses)
}
