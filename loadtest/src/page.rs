//! The report of a run as one page with plots: no script, nothing loaded from elsewhere.

use std::fmt::Write as _;

use crate::report::{Latency, Report, StorySample};

/// Size of a plot, with its margins, in pixels.
const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// Percentiles of the horizontal axis: each is as far from the last as its tail is smaller.
const TICKS: [(f64, &str); 5] = [
    (0.0, "0"),
    (0.9, "90"),
    (0.99, "99"),
    (0.999, "99.9"),
    (0.9999, "99.99"),
];
/// Points of a curve.
const POINTS: u32 = 200;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
                     padding:0 1rem}pre{overflow-x:auto;font-size:13px;padding:1rem;\
                     border:1px solid #8886}\
                     svg{max-width:100%;height:auto}text{font-size:12px;fill:currentColor}\
                     .grid{stroke:#8885;fill:none}.curve{stroke:#2456d6;stroke-width:2;fill:none}\
                     .late{stroke:#b4690e;stroke-dasharray:5 4}\
                     .missing{stroke:#c33;stroke-width:2;fill:none}\
                     @media(prefers-color-scheme:dark){body{background:#111;color:#ddd}\
                     .curve{stroke:#7aa2ff}.late{stroke:#f0b060}.missing{stroke:#f77}}";

/// The page.
pub fn page(report: &Report, passed: bool) -> String {
    let title = format!(
        "weir-loadtest {}: {}",
        report.scenario,
        if passed { "passed" } else { "failed" }
    );
    let title = escaped(&title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<pre>{}</pre>\n",
        escaped(&report.text(passed))
    );
    for (name, series) in &report.series {
        let late = Some(&series.late).filter(|late| late.count() > 0);
        curves(&mut out, name, &series.latency, late);
    }
    for (name, wake) in &report.wakes {
        curves(&mut out, name, wake, None);
    }
    if !report.timeline.is_empty() {
        timeline(&mut out, &report.timeline);
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// Where a share of 0 to 1 of the horizontal axis is.
fn x_of(share: f64) -> f64 {
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn y_of(share: f64) -> f64 {
    HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
}

/// The share of the horizontal axis of a quantile.
fn tail(quantile: f64) -> f64 {
    -(1.0 - quantile).log10() / 4.0
}

/// Latency by percentile, both on logarithmic axes.
fn curves(out: &mut String, name: &str, latency: &Latency, late: Option<&Latency>) {
    if latency.count() == 0 {
        return;
    }
    let ms = |nanos: u64| (nanos as f64 / 1e6).max(1e-6);
    let all = [Some(latency), late];
    let (mut lowest, mut highest) = (f64::MAX, f64::MIN);
    for one in all.into_iter().flatten() {
        lowest = lowest.min(ms(one.quantile(0.0)).log10().floor());
        highest = highest.max(ms(one.quantile(0.9999)).log10().ceil());
    }
    let span = (highest - lowest).max(1.0);
    let _ = writeln!(
        out,
        "<h2>{}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{} by percentile\">",
        escaped(name),
        escaped(name)
    );
    for (quantile, label) in TICKS {
        let x = x_of(tail(quantile));
        let (top, bottom) = (y_of(1.0), y_of(0.0));
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label} %</text>",
            bottom + 18.0
        );
    }
    for step in 0..=span as u32 {
        let y = y_of(f64::from(step) / span);
        let value = 10_f64.powf(lowest + f64::from(step));
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (one, class) in all.into_iter().zip(["curve", "curve late"]) {
        let Some(one) = one else { continue };
        let points = (0..=POINTS).map(|at| {
            let share = f64::from(at) / f64::from(POINTS);
            let quantile = 1.0 - 10_f64.powf(-share * 4.0);
            let value = (ms(one.quantile(quantile)).log10() - lowest) / span;
            format!("{:.1} {:.1}", x_of(share), y_of(value.clamp(0.0, 1.0)))
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(out, "<path class=\"{class}\" d=\"M{}\"/>", points.join("L"));
    }
    out.push_str("</svg>\n");
    if late.is_some() {
        out.push_str("<p>Dashed: how late requests were sent.</p>\n");
    }
}

/// Copies that are missing or doubled, by the second of a story.
fn timeline(out: &mut String, samples: &[StorySample]) {
    let last = samples
        .iter()
        .map(|it| it.seconds)
        .max()
        .unwrap_or(0)
        .max(1);
    let most = samples.iter().map(|it| it.missing.max(it.doubled)).max();
    let most = most.unwrap_or(0).max(1);
    let _ = writeln!(
        out,
        "<h2>Missing and doubled copies</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"missing and doubled copies by second\">\n\
         <path class=\"grid\" d=\"M{LEFT} {0:.1}H{1:.1}M{LEFT} {2:.1}H{1:.1}\"/>\
         <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"end\">{most}</text>\
         <text x=\"{1:.1}\" y=\"{5:.1}\" text-anchor=\"end\">{last} s</text>",
        y_of(0.0),
        WIDTH - RIGHT,
        y_of(1.0),
        LEFT - 6.0,
        y_of(1.0) + 4.0,
        y_of(0.0) + 18.0
    );
    let mut curve = |class: &str, of: fn(&StorySample) -> u64| {
        let points = samples.iter().map(|sample| {
            let x = x_of(sample.seconds as f64 / last as f64);
            format!("{x:.1} {:.1}", y_of(of(sample) as f64 / most as f64))
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(out, "<path class=\"{class}\" d=\"M{}\"/>", points.join("L"));
    };
    curve("missing", |sample| sample.missing);
    curve("curve late", |sample| sample.doubled);
    out.push_str("</svg>\n<p>Dashed: doubled.</p>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Series;

    #[test]
    fn page_has_a_plot_per_series_and_no_markup_of_names() {
        let mut series = Series::default();
        for ms in 1..=100 {
            series.latency.record(ms * 1_000_000);
            series.late.record(1_000);
        }
        let mut report = Report {
            scenario: "<b>polls</b>".to_owned(),
            ..Report::default()
        };
        report.series.insert("GET <script>".to_owned(), series);
        report.series.insert("unused".to_owned(), Series::default());
        report.timeline = (0..3)
            .map(|seconds| StorySample {
                at: 0,
                seconds,
                missing: seconds * 5,
                doubled: 0,
                living: 1,
            })
            .collect();
        let page = page(&report, true);
        assert_eq!(page.matches("<svg").count(), 2, "{page}");
        assert_eq!(page.matches("</svg>").count(), 2);
        assert!(page.contains("GET &lt;script&gt;") && !page.contains("<script"));
        assert!(!page.contains("<b>") && !page.contains("NaN") && !page.contains("inf"));
        assert!(!page.contains("http"), "nothing is loaded");
        // 100 ms is at the top of its decade, and the axis ends there.
        assert!(page.contains(">100 ms</text>"), "{page}");
        // The worst second has all of the height.
        assert!(page.contains(&format!("L{:.1} {:.1}\"", x_of(1.0), y_of(1.0))));
    }
}
