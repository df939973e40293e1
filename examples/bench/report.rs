//! The tables.

use crate::{measuring::processes::median, rows::Row, turns::Turn};
use std::fmt::Write as _;

/// What a contender did in a row: the median of its turns.
pub(crate) fn middle(
    turns: &[Turn],
    row: &Row,
    contender: &str,
    what: impl Fn(&Turn) -> Option<f64>,
) -> Option<f64> {
    let own = turns.iter().filter(|turn| turn.row == row.name && turn.contender == contender);
    let values: Vec<f64> = own.filter_map(what).collect();
    (!values.is_empty()).then(|| median(values))
}

pub(crate) fn figure(turns: &[Turn], row: &Row, contender: &str) -> Option<f64> {
    middle(turns, row, contender, |turn| Some(turn.figure))
}

/// The first table compares the main figures, the second shows the rest.
pub(crate) fn table(rows: &[&Row], names: &[String], turns: &[Turn]) -> String {
    let mut text = ratios(rows, names, turns);
    text.push_str(
        "\n| row | | user µs | system µs | a second | busy | p50 µs | p99 µs |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        for name in names.iter().filter(|name| figure(turns, row, name).is_some()) {
            let cell = |what: fn(&Turn) -> Option<f64>| number(middle(turns, row, name, what));
            let busy = middle(turns, row, name, |turn| turn.busy);
            writeln!(
                text,
                "| {} | {name} | {} | {} | {} | {} | {} | {} |",
                row.name,
                cell(|turn| turn.user),
                cell(|turn| turn.system),
                cell(|turn| turn.per_second),
                busy.map_or("-".into(), |busy| format!("{:.0}%", busy * 100.0)),
                cell(|turn| turn.p50),
                cell(|turn| turn.p99)
            )
            .expect("writing to a String");
        }
    }
    text
}

/// The first contender beside each of the others.
fn ratios(rows: &[&Row], names: &[String], turns: &[Turn]) -> String {
    let [ours, others @ ..] = names else { return String::new() };
    let beside: Vec<String> = others.iter().map(|name| format!("beside {name}")).collect();
    let mut text = format!(
        "| | | {} | {} |\n|---|---|{}\n",
        names.join(" | "),
        beside.join(" | "),
        "--:|".repeat(names.len() + others.len())
    );
    for row in rows {
        let own = figure(turns, row, ours);
        write!(text, "| {} | {} |", row.title, row.figure).expect("writing to a String");
        for name in names {
            write!(text, " {} |", number(figure(turns, row, name))).expect("writing to a String");
        }
        for name in others {
            let ratio = own.zip(figure(turns, row, name)).map(|(own, other)| own / other);
            let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            write!(text, " {ratio} |").expect("writing to a String");
        }
        text.push('\n');
    }
    text
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() < 10.0 => format!("{value:.2}"),
        Some(value) if value.abs() < 1000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// All turns, one a line.
pub(crate) fn csv(turns: &[Turn]) -> String {
    let mut text = String::from("row,contender,round,figure,user,system,per_second,busy,p50,p99\n");
    for turn in turns {
        let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let numbers = [turn.user, turn.system, turn.per_second, turn.busy, turn.p50, turn.p99];
        writeln!(
            text,
            "{},{},{},{},{}",
            turn.row,
            turn.contender,
            turn.round,
            turn.figure,
            numbers.map(cell).join(",")
        )
        .expect("writing to a String");
    }
    text
}
