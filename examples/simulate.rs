//! Simulates every policy in every scenario, and writes the tables of docs/balancing.md and the
//! plots in docs/balancing/. `make sim` runs it, in the root of the repository.

#[path = "../sim/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the property tests")]
mod sim;

use pingora_lb::model::BalancePolicy;
use plotters::prelude::*;
use sim::{
    catalogue::{self, Entry},
    measures::Measures,
};
use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

const DOCUMENT: &str = "docs/balancing.md";
const PLOTS: &str = "docs/balancing";
const BEGIN: &str = "<!-- begin: written by `make sim` -->";
const END: &str = "<!-- end: written by `make sim` -->";
/// Any would do; the same makes the same tables.
const SEED: u64 = 1;
/// The shares of the requests of which the latencies are shown.
const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

/// What a policy did in a scenario.
struct Row {
    policy: BalancePolicy,
    quantiles: [Duration; 3],
    error_rate: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut results = simulate_all();
    fs::create_dir_all(PLOTS)?;
    let mut tables = String::new();
    for entry in &catalogue::ALL {
        let rows: Vec<Row> = results.drain(..BalancePolicy::ALL.len()).collect();
        plot(entry, &rows)?;
        write_table(&mut tables, entry, &rows)?;
    }
    let document = fs::read_to_string(DOCUMENT)?;
    let (before, rest) = document.split_once(BEGIN).ok_or("the first marker is missing")?;
    let (_, after) = rest.split_once(END).ok_or("the second marker is missing")?;
    fs::write(DOCUMENT, format!("{before}{BEGIN}\n\n{tables}{END}{after}"))?;
    Ok(())
}

/// The rows of all scenarios, one scenario after the other, each with the policies in order.
fn simulate_all() -> Vec<Row> {
    let runs: Vec<(&Entry, BalancePolicy)> = catalogue::ALL
        .iter()
        .flat_map(|entry| BalancePolicy::ALL.map(|policy| (entry, policy)))
        .collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((entry, policy)) = runs.get(next.fetch_add(1, Relaxed)) {
            let row = simulate(entry, *policy);
            let position = (entry.id, *policy);
            rows.lock().unwrap_or_else(PoisonError::into_inner).push((position, row));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |position: &(&str, BalancePolicy)| {
        runs.iter().position(|(entry, policy)| (entry.id, *policy) == *position)
    };
    rows.sort_by_key(|(position, _)| place(position));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn simulate(entry: &Entry, policy: BalancePolicy) -> Row {
    let measures: Measures = sim::run(&entry.scenario(policy), SEED);
    assert!(measures.violations.is_empty(), "{policy} {}: {:#?}", entry.id, measures.violations);
    Row { policy, quantiles: measures.quantiles(SHARES), error_rate: measures.error_rate() }
}

fn write_table(text: &mut String, entry: &Entry, rows: &[Row]) -> std::fmt::Result {
    let Entry { id, title, what, .. } = entry;
    writeln!(text, "### {title}\n\n{what}\n")?;
    writeln!(text, "| policy | p50 | p99 | p99.9 | errors |")?;
    writeln!(text, "|---|--:|--:|--:|--:|")?;
    for row in rows {
        let [half, most, nearly_all] = row.quantiles.map(milliseconds);
        let (policy, errors) = (row.policy, percentage(row.error_rate));
        writeln!(text, "| `{policy}` | {half} | {most} | {nearly_all} | {errors} |")?;
    }
    writeln!(text, "\n![{title}: latency by policy](balancing/{id}.svg)\n")
}

fn milliseconds(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        ..100.0 => format!("{millis:.1} ms"),
        ..10_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

fn percentage(share: f64) -> String {
    if share == 0.0 { "0".to_owned() } else { format!("{:.3}%", share * 100.0) }
}

/// Draws the latencies of a scenario: for each policy a bar up to each quantile, one in front of the
/// other, on a logarithmic scale.
fn plot(entry: &Entry, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    const SHADES: [RGBColor; 3] =
        [RGBColor(33, 87, 141), RGBColor(91, 155, 213), RGBColor(189, 215, 238)];
    let path = Path::new(PLOTS).join(entry.id).with_extension("svg");
    let root = SVGBackend::new(&path, (720, 340)).into_drawing_area();
    root.fill(&WHITE)?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let slowest = rows.iter().map(|row| millis(row.quantiles[2])).fold(100.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(entry.title, ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(130)
        .build_cartesian_2d((5.0..slowest * 1.5).log_scale(), 0.0..rows.len() as f64)?;
    // From the top down, in the order of the table.
    let from_top = |index: usize| (rows.len() - 1 - index) as f64;
    let name = |height: &f64| {
        let index = rows.len() - 1 - (*height as usize).min(rows.len() - 1);
        rows[index].policy.to_string()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("milliseconds, logarithmic: p50 (dark), p99, p99.9 (light)")
        .y_labels(0)
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        let low = from_top(index);
        for (quantile, shade) in row.quantiles.iter().zip(SHADES).rev() {
            let corners = [(5.0, low + 0.2), (millis(*quantile).max(5.0), low + 0.8)];
            chart.draw_series([Rectangle::new(corners, shade.filled())])?;
        }
        let (_, at) = chart.backend_coord(&(5.0, low + 0.5));
        root.draw_text(&name(&low), &("sans-serif", 14).into_text_style(&root), (12, at - 7))?;
    }
    root.present()?;
    Ok(())
}
