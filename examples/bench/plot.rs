//! The plot: for each row, what ours takes beside the others.

use crate::{Outcome, report::figure, rows::Row, turns::Turn};
use plotters::prelude::*;

const SHADES: [RGBColor; 3] =
    [RGBColor(91, 155, 213), RGBColor(237, 125, 49), RGBColor(112, 173, 71)];
/// The height of a row.
const ROW: u32 = 44;
/// The scale, which is logarithmic.
const LEAST: f64 = 0.1;
const MOST: f64 = 20.0;

/// Writes bars from 1, which is equal, to what the first contender takes beside each of the others.
pub(crate) fn ratios(path: &str, rows: &[&Row], names: &[String], turns: &[Turn]) -> Outcome<()> {
    let [ours, others @ ..] = names else { return Ok(()) };
    let height = 110 + ROW * rows.len() as u32;
    let root = SVGBackend::new(path, (820, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(
            format!("What {ours} takes beside the others (less is better)"),
            ("sans-serif", 18),
        )
        .x_label_area_size(40)
        .y_label_area_size(320)
        .build_cartesian_2d((LEAST..MOST).log_scale(), 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_desc("times what the other takes, logarithmic")
        .draw()?;
    for (at, other) in others.iter().enumerate() {
        let shade = SHADES[at % SHADES.len()];
        let bar = |(place, row): (usize, &&Row)| {
            let ratio = figure(turns, row, ours)? / figure(turns, row, other)?;
            // From the top down, in the order of the table.
            let low = (rows.len() - 1 - place) as f64 + 0.1;
            let thick = 0.8 / others.len() as f64;
            let low = low + thick * (others.len() - 1 - at) as f64;
            // A ratio of figures around zero, such as an added latency, may be anything.
            let end = ratio.clamp(LEAST, MOST);
            let corners = [(end.min(1.0), low), (end.max(1.0), low + thick * 0.9)];
            Some(Rectangle::new(corners, shade.filled()))
        };
        chart
            .draw_series(rows.iter().enumerate().filter_map(bar))?
            .label(format!("beside {other}"))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], shade.filled()));
    }
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, rows.len() as f64)], BLACK)])?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    for (place, row) in rows.iter().enumerate() {
        let middle = (rows.len() - 1 - place) as f64 + 0.5;
        let (_, y) = chart.backend_coord(&(1.0, middle));
        root.draw_text(row.title, &("sans-serif", 13).into_text_style(&root), (12, y - 7))?;
    }
    root.present()?;
    Ok(())
}
