//! No input makes the parser panic, and what it refuses it explains.

use crate::{config::fuzz::check, model::BalancePolicy};
use proptest::prelude::*;

const FULL: &str = include_str!("../../../conf/full.yaml");

/// Pieces of which configuration files are made, valid and not.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "listeners",
        "pools",
        "routes",
        "match",
        "backends",
        "host",
        "split",
        "redirect",
        "http",
        "health_check",
        "balance",
        "hash_on",
        "sticky",
        "ejection",
        "retry",
        "limits",
        "address",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "<<: *a",
        "!!int ",
        "!x ",
        "~",
        "off",
        "1e999",
        ".nan",
        "0x",
        "-1",
        "99999999999",
        "10%",
        "5s",
        "1h1ms",
        "64KiB",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "---",
        "\t",
        "${",
        "}",
        "$$",
        "${A:-b}",
        "${path}",
        "127.0.0.1:80",
        "unix:",
        "*.a",
        "(",
        "\\",
        "é",
        "\u{feff}",
        "\0",
        "\u{1f600}",
        "? ",
    ])
}

/// The place of a character, as a byte index, at about `share` of the text.
fn boundary(text: &str, share: f64) -> usize {
    let mut at = (text.len() as f64 * share) as usize;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_texts_do_not_panic(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn random_pieces_of_yaml_do_not_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        check(&pieces.concat());
    }

    #[test]
    fn cut_files_do_not_panic(from in 0.0..1.0_f64, to in 0.0..1.0_f64) {
        check(&FULL[..boundary(FULL, to)]);
        check(&FULL[boundary(FULL, from)..]);
    }

    #[test]
    fn changed_files_do_not_panic(
        changes in prop::collection::vec((0.0..1.0_f64, 0..12_usize, piece()), 1..6),
    ) {
        let mut text = FULL.to_owned();
        for (share, removed, inserted) in changes {
            let start = boundary(&text, share);
            let end = text[start..].char_indices().nth(removed).map_or(text.len(), |(at, _)| start + at);
            text.replace_range(start..end, inserted);
        }
        check(&text);
    }

    #[test]
    fn changed_values_do_not_panic(line in 0..FULL.lines().count(), value in "\\PC{0,20}") {
        let changed = FULL.lines().enumerate().map(|(index, text)| match text.split_once(": ") {
            Some((key, _)) if index == line => format!("{key}: {value}\n"),
            _ => format!("{text}\n"),
        });
        check(&changed.collect::<String>());
    }

    #[test]
    fn changed_settings_of_pools_are_sound(
        (base, max) in (0..100_u32, 0..100_u32),
        (queue, connections) in (0..3_u32, 0..3_u32),
        (policy, bound) in (prop::sample::select(BalancePolicy::ALL.to_vec()), 0..300_u32),
    ) {
        check(&format!(
            "listeners: {{ web: {{ address: '[::]:80' }} }}\npools: {{ app: {{ backends: [a:1],\n\
             ejection: {{ base_time: {base}s, max_time: {max}s }},\n\
             retry: {{ backoff: {{ base: {base}ms, max: {max}ms }} }},\n\
             limits: {{ queue: {queue}, connections_per_backend: {connections} }},\n\
             balance: {{ policy: {policy}, bounded_load: {bound}% }} }} }}\n"
        ));
    }

    #[test]
    fn durations_and_percentages_do_not_panic(text in "[0-9.a-z%é ]{0,12}") {
        let _ = crate::config::parse_duration(&text);
        let _ = crate::config::parse_percent(&text);
    }
}
