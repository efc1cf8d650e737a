//! The plots of the page, as SVG. Colours are names that the page's style sheet gives a light and a
//! dark value.

use plotters::{
    coord::{Shift, combinators::BindKeyPoints as _},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    args::Op,
    report::{Measured, Report},
    words,
};

/// Plots are this wide; the page scales them.
const WIDTH: u32 = 860;
/// Where bars begin, and the room behind them for their figures.
const LEFT: i32 = 150;
const RIGHT: i32 = 190;

/// The room of the longest name of an op, and of a line of text.
const NAME_WIDTH: i32 = 60;
const LINE: i32 = 15;

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(1, 1, 1);
/// What matters less.
pub(super) const PALE: RGBColor = RGBColor(2, 2, 2);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(3, 3, 3);
/// One for each of [`Op::ALL`].
pub(super) const OPS: [RGBColor; 4] =
    [RGBColor(4, 4, 4), RGBColor(5, 5, 5), RGBColor(6, 6, 6), RGBColor(7, 7, 7)];
/// The daemon's share, and this program's.
pub(super) const DAEMON: RGBColor = OPS[0];
pub(super) const CLIENT: RGBColor = OPS[1];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Failed = DrawingAreaErrorKind<std::io::Error>;

/// A plot of this height, or nothing if it cannot be drawn.
fn svg(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<(), Failed>) -> String {
    let mut text = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| area.present())
    };
    match drawn {
        Ok(()) => text,
        Err(error) => format!("<p>This plot cannot be drawn: {error}</p>"),
    }
}

fn colour(op: &Measured) -> RGBColor {
    match op.op {
        Op::Put => OPS[0],
        Op::Get => OPS[1],
        Op::Stat => OPS[2],
        Op::Delete => OPS[3],
    }
}

fn font(size: i32, colour: RGBColor, across: HPos) -> TextStyle<'static> {
    let color = colour.to_backend_color();
    let pos = Pos::new(across, VPos::Center);
    TextStyle { font: ("sans-serif", size).into_font(), color, pos }
}

fn label(area: &Area<'_>, text: &str, at: (i32, i32), style: &TextStyle<'_>) -> Result<(), Failed> {
    area.draw(&Text::new(text.to_owned(), at, style.clone()))
}

fn bar(
    area: &Area<'_>,
    from: (i32, i32),
    to: (i32, i32),
    style: impl Into<ShapeStyle>,
) -> Result<(), Failed> {
    area.draw(&Rectangle::new([from, to], style))
}

/// Where labels begin that each want to begin at a place, have a length, and lie between `from` and `to`:
/// in their order, and on nobody else's as long as there is room.
fn spread(wanted: &[(i32, i32)], from: i32, to: i32) -> Vec<i32> {
    let mut free = from;
    let mut begins: Vec<i32> = Vec::with_capacity(wanted.len());
    for (begin, length) in wanted {
        free = free.max(*begin);
        begins.push(free);
        free += length;
    }
    let mut end = to;
    for (begin, (_, length)) in begins.iter_mut().zip(wanted).rev() {
        *begin = (*begin).min(end - length);
        end = *begin;
    }
    begins
}

/// Pixels of `value` where `most` fills the plot.
fn length(value: f64, most: f64) -> i32 {
    let room = f64::from(i32::try_from(WIDTH).unwrap_or(0) - LEFT - RIGHT);
    let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "at most the width of the plot")]
    let pixels = (share * room).round() as i32;
    pixels.max(1)
}

/// Throughput of each op as a bar, and under it what each stage can do alone.
pub(super) fn throughput(report: &Report) -> Option<String> {
    let moving: Vec<_> =
        report.ops.iter().filter_map(|op| op.mb_per_s.map(|rate| (op, rate))).collect();
    // A ceiling far above is cut off, so that the others can be told apart.
    let fastest = moving.iter().map(|(_, rate)| *rate).max_by(f64::total_cmp)?;
    let ceilings = moving.iter().flat_map(|(op, _)| &op.stages).map(|stage| stage.mb_per_s);
    let most = ceilings.filter(|rate| *rate <= fastest * 3.0).fold(fastest, f64::max);
    let height: usize = moving.iter().map(|(op, _)| 50 + 22 * op.stages.len()).sum();
    let height = u32::try_from(height).unwrap_or(WIDTH);
    Some(svg(height, |area| {
        let mut y = 4;
        for (op, rate) in &moving {
            let end = LEFT + length(*rate, most);
            label(area, op.op.name(), (LEFT - 10, y + 13), &font(17, INK, HPos::Right))?;
            bar(area, (LEFT, y), (end, y + 26), colour(op).filled())?;
            let text = format!("{} MB/s", words::rate(Some(*rate)));
            label(area, &text, (end + 8, y + 13), &font(17, INK, HPos::Left))?;
            y += 34;
            for stage in &op.stages {
                let to = LEFT + length(stage.mb_per_s, most);
                let limits = op.limit == Some(stage.stage);
                let name = match stage.stage {
                    "cores" => words::limit(Some("cores"), report.machine.cores),
                    stage => stage.to_owned(),
                };
                let ink = if limits { INK } else { PALE };
                label(area, &name, (LEFT - 10, y + 8), &font(13, ink, HPos::Right))?;
                bar(area, (LEFT, y), (to, y + 14), GRID.filled())?;
                bar(area, (LEFT, y), (end.min(to), y + 14), colour(op).mix(0.35).filled())?;
                let beyond = if stage.mb_per_s > most { " \u{2192}" } else { "" };
                let mut text = format!(
                    "{beyond}{} MB/s, {} of it",
                    words::rate(Some(stage.mb_per_s)),
                    words::share(stage.share)
                );
                if limits {
                    text.push_str(" \u{25c0}");
                }
                label(area, &text, (to + 8, y + 8), &font(13, ink, HPos::Left))?;
                y += 22;
            }
            y += 16;
        }
        Ok(())
    }))
}

/// CPU seconds a GiB of each op, daemon and client, and of the digests alone.
pub(super) fn cpu(report: &Report) -> Option<String> {
    let moving: Vec<_> = report
        .ops
        .iter()
        .filter_map(|op| Some((op, op.cpu.daemon_seconds_per_gib?, op.cpu.client_seconds_per_gib?)))
        .filter(|(op, ..)| op.mb_per_s.is_some())
        .collect();
    let digests = report.ceilings.digest_cpu_seconds_per_gib();
    let totals = moving.iter().map(|(_, daemon, client)| daemon + client);
    let most = totals.max_by(f64::total_cmp)?.max(digests);
    let height = u32::try_from(moving.len() * 42 + 70).unwrap_or(WIDTH);
    Some(svg(height, |area| {
        let mut y = 34;
        for (n, (name, colour)) in [("daemon", DAEMON), ("client", CLIENT)].into_iter().enumerate()
        {
            let x = LEFT + 110 * i32::try_from(n).unwrap_or(0);
            bar(area, (x, 4), (x + 14, 18), colour.filled())?;
            label(area, name, (x + 20, 11), &font(14, INK, HPos::Left))?;
        }
        for (op, daemon, client) in &moving {
            let middle = LEFT + length(*daemon, most);
            let end = LEFT + length(daemon + client, most);
            label(area, op.op.name(), (LEFT - 10, y + 13), &font(17, INK, HPos::Right))?;
            bar(area, (LEFT, y), (middle, y + 26), DAEMON.filled())?;
            bar(area, (middle, y), (end.max(middle + 1), y + 26), CLIENT.filled())?;
            let text = format!("{daemon:.2} + {client:.2} s/GiB");
            label(area, &text, (end + 8, y + 13), &font(15, INK, HPos::Left))?;
            y += 42;
        }
        let end = LEFT + length(digests, most);
        label(area, "digests alone", (LEFT - 10, y + 8), &font(13, PALE, HPos::Right))?;
        bar(area, (LEFT, y), (end, y + 14), GRID.filled())?;
        let text = format!("{digests:.2} s/GiB");
        label(area, &text, (end + 8, y + 8), &font(13, PALE, HPos::Left))
    }))
}

/// The exponent that 1, 2 or 5 times a power of ten below and above `from..to` have, with those
/// between.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let steps = [1.0, 2.0, 5.0];
    let all: Vec<f64> =
        (-4..9).flat_map(|power| steps.map(|step| step * 10_f64.powi(power))).collect();
    let below = all.iter().rposition(|tick| *tick <= from).unwrap_or(0);
    let above = all.iter().position(|tick| *tick >= to).unwrap_or(all.len() - 1);
    all.get(below..=above.max(below + 1)).unwrap_or_default().to_vec()
}

/// Of how many requests one is slower. On a logarithmic scale each nine more of the quantile is as
/// far again.
fn one_of(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile)
}

/// Latency against the share of requests that were faster.
pub(super) fn latency(report: &Report) -> Option<String> {
    let curves: Vec<_> = report.ops.iter().filter(|op| op.requests > 0).collect();
    let points = || curves.iter().flat_map(|op| op.latency_ms.curve.iter().copied());
    let fastest = points().map(|(_, ms)| ms).min_by(f64::total_cmp)?;
    let slowest = points().map(|(_, ms)| ms).max_by(f64::total_cmp)?;
    let right = points().map(|(quantile, _)| one_of(quantile)).fold(10.0, f64::max);
    let mut rows = ticks(fastest, slowest);
    if rows.len() > 10 {
        rows = ticks(fastest / 2.0, slowest * 2.0);
        rows.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9);
    }
    let (bottom, top) =
        (rows.first().copied()?.min(fastest * 0.9), rows.last().copied()?.max(slowest * 1.1));
    let quantiles = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999].map(one_of);
    let quantiles = quantiles.into_iter().filter(|x| *x <= right * 1.001).collect();
    Some(svg(320, |area| {
        let across = (1.0..right * 1.05).log_scale().with_key_points(quantiles);
        let up = (bottom..top).log_scale().with_key_points(rows);
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(80)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(across, up)?;
        let small = font(13, INK, HPos::Center);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(PALE)
            .x_desc("share of requests that were faster")
            .axis_desc_style(font(13, PALE, HPos::Center))
            .x_label_style(small.clone())
            .y_label_style(small)
            .x_label_formatter(&|x| percent(*x))
            .y_label_formatter(&|ms| words::time(*ms))
            .draw()?;
        let mut ends = Vec::new();
        for op in &curves {
            let curve: Vec<_> =
                op.latency_ms.curve.iter().map(|(quantile, ms)| (one_of(*quantile), *ms)).collect();
            let Some(last) = curve.last().copied() else { continue };
            chart.draw_series(LineSeries::new(curve, colour(op).stroke_width(2)))?;
            chart.draw_series([Circle::new(last, 4, colour(op).filled())])?;
            ends.push((chart.backend_coord(&last), *op));
        }
        // Curves that end side by side have their names one below the other.
        ends.sort_by_key(|((x, y), _)| (*x, *y));
        for group in ends.chunk_by_mut(|((x, _), _), ((next, _), _)| next - x < NAME_WIDTH) {
            group.sort_by_key(|((_, y), _)| *y);
            let tops: Vec<_> = group.iter().map(|((_, y), _)| (y - LINE / 2, LINE)).collect();
            let inside = chart.plotting_area().get_pixel_range().1;
            for (((x, _), op), top) in group.iter().zip(spread(&tops, inside.start, inside.end)) {
                let at = (x + 10, top + LINE / 2);
                label(area, op.op.name(), at, &font(14, colour(op), HPos::Left))?;
            }
        }
        Ok(())
    }))
}

fn percent(one_of: f64) -> String {
    let share = (1.0 - 1.0 / one_of) * 100.0;
    let text = format!("{share:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The daemon's memory over time, with what ran when.
pub(super) fn memory(report: &Report) -> Option<String> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let end = report.rss.last()?.seconds.max(0.001);
    let most = report.rss.iter().map(|point| point.bytes).max()?;
    let peaks = report.ops.iter().filter_map(|op| op.rss.peak_bytes);
    let top = mib(peaks.fold(most, u64::max)) * 1.2 + 1.0;
    Some(svg(300, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        for op in &report.ops {
            let until = (op.begun_s + op.seconds).min(end);
            let shade = colour(op).mix(0.14).filled();
            chart.draw_series([Rectangle::new([(op.begun_s, 0.0), (until, top)], shade)])?;
        }
        let small = font(13, INK, HPos::Center);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(PALE)
            .x_labels(8)
            .y_labels(6)
            .x_desc("seconds")
            .axis_desc_style(font(13, PALE, HPos::Center))
            .x_label_style(small.clone())
            .y_label_style(small)
            .x_label_formatter(&|s| format!("{s:.*}", usize::from(end < 8.0)))
            .y_label_formatter(&|mib| format!("{mib:.0} MiB"))
            .draw()?;
        let line = report.rss.iter().map(|point| (point.seconds, mib(point.bytes)));
        chart.draw_series(LineSeries::new(line, INK.stroke_width(2)))?;
        let begun = report.ops.iter().map(|op| chart.backend_coord(&(op.begun_s, top)));
        let begun: Vec<_> = begun.collect();
        let names: Vec<_> = begun.iter().map(|(x, _)| (x + 5, NAME_WIDTH)).collect();
        let from = begun.first().map_or(0, |(x, _)| *x);
        let places = spread(&names, from, i32::try_from(WIDTH).unwrap_or(0));
        for ((op, (_, y)), x) in report.ops.iter().zip(begun).zip(places) {
            label(area, op.op.name(), (x, y + 10), &font(13, colour(op), HPos::Left))?;
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn every_plot_is_drawn() {
        let report = report();
        for plot in [throughput(&report), cpu(&report), latency(&report), memory(&report)] {
            let plot = plot.unwrap();
            assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"), "{plot}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut report = report();
        report.ops.clear();
        report.rss.clear();
        for plot in [throughput(&report), cpu(&report), latency(&report), memory(&report)] {
            assert_eq!(plot, None);
        }
    }

    #[test]
    fn labels_lie_beside_each_other_and_inside() {
        assert_eq!(spread(&[], 0, 100), [0; 0]);
        assert_eq!(spread(&[(10, 20), (50, 20)], 0, 100), [10, 50]);
        assert_eq!(spread(&[(10, 20), (15, 20), (18, 20)], 0, 100), [10, 30, 50]);
        assert_eq!(spread(&[(10, 20), (90, 20), (95, 20)], 0, 100), [10, 60, 80]);
        assert_eq!(spread(&[(70, 20), (71, 20), (-5, 20)], 0, 100), [40, 60, 80]);
        assert_eq!(spread(&[(-5, 20)], 0, 100), [0]);
    }

    #[test]
    fn ticks_reach_around_what_they_mark() {
        assert_eq!(ticks(0.3, 4.0), [0.2, 0.5, 1.0, 2.0, 5.0]);
        assert_eq!(ticks(100.0, 100.0), [100.0, 200.0]);
        assert_eq!(percent(one_of(0.999)), "99.9 %");
        assert_eq!(percent(1.0), "0 %");
    }
}
