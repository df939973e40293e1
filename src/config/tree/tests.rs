use super::*;
use std::fmt::Write as _;

fn scalars(text: &str) -> Vec<String> {
    fn collect(node: &Node, found: &mut Vec<String>) {
        match &node.value {
            Value::Null => found.push("<null>".to_owned()),
            Value::Scalar(scalar) => found.push(scalar.clone()),
            Value::List(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Map(entries) => entries.iter().for_each(|entry| collect(&entry.node, found)),
        }
    }
    let mut found = Vec::new();
    collect(&parse(text).unwrap(), &mut found);
    found
}

fn error(text: &str) -> String {
    let error = parse(text).unwrap_err();
    let position = error.position.map_or((0, 0), |at| (at.line, at.column));
    format!("{}:{}: {}", position.0, position.1, error.fault)
}

#[test]
fn scalars_keep_their_spelling() {
    let text = "[x, '12', off, 0x10, 1_000, 007, 1e3, .inf, 1e999, -5, True, 1.50, \"on\"]";
    let expected = "x 12 off 0x10 1_000 007 1e3 .inf 1e999 -5 True 1.50 on";
    assert_eq!(scalars(text).join(" "), expected);
    assert_eq!(scalars("\u{feff}a: 1.50\n"), ["1.50"]);
    assert_eq!(scalars("é: [ü, 1.50]\nb: !!int \"12\"\n"), ["ü", "1.50", "12"]);
    assert_eq!(
        scalars("99999999999999999999999999999999999999999999"),
        ["99999999999999999999999999999999999999999999"]
    );
}

#[test]
fn scalars_keep_their_spelling_through_aliases_and_merges() {
    let text = "a: &a {n: 1.50}\nb: *a\nc:\n  <<: *a\n";
    assert_eq!(scalars(text), ["1.50", "1.50", "1.50"]);
}

#[test]
fn only_null_is_null() {
    assert_eq!(scalars("[~, null, '', \"~\", 'null']"), ["<null>", "<null>", "", "~", "null"]);
}

#[test]
fn syntax_errors_are_placed_and_stand_alone() {
    for (text, expected) in [
        ("a: 1\na: 2\n", "2:1: duplicate key \"a\"; expected each key once"),
        ("---\na: 1\n---\nb: 2\n", "4:1: a second document; expected one YAML document"),
        ("a: [1\nb: 2", "2:2: illegal placement of ':' indicator; expected valid YAML"),
        (&nested("[", "]", 17), "1:17: lists and maps nested too deep; expected at most 16 levels"),
        ("a: *b", "1:4: alias references unknown anchor; expected valid YAML"),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn tags_of_types_that_we_do_not_give_are_unknown() {
    for (text, tag) in
        [("a: !foo bar", "!foo"), ("a: !!binary NXM=", "!!binary"), ("a: !!binary {}", "!!binary")]
    {
        let error = error(text);
        let expected = format!("unknown tag \"{tag}\"; expected a value without a tag");
        assert!(error.starts_with("1:") && error.ends_with(&expected), "{error}");
    }
}

#[test]
fn keys_are_texts_and_occur_once_however_they_are_spelled() {
    for (text, expected) in [
        ("{5: a, \"5\": b}", "1:8: duplicate key \"5\"; expected each key once"),
        ("'404': a\n404: b", "2:1: duplicate key \"404\"; expected each key once"),
        ("on: a\n\"on\": b", "2:1: duplicate key \"on\"; expected each key once"),
        (
            "a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n",
            "5:3: duplicate key \"<<\"; expected each key once",
        ),
        ("~: a", "1:1: null as a key; expected a text as a key"),
        ("? [a, b]\n: c", "1:3: a list as a key; expected a text as a key"),
        ("<<: a", "1:1: \"<<\" of what is no map; expected a map, or a list of maps"),
        ("<<: [{a: b}, c]", "1:1: \"<<\" of what is no map; expected a map, or a list of maps"),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert_eq!(scalars("a: {on: 1, On: 2, 5: 3, 05: 4}"), ["1", "2", "3", "4"]);
}

#[test]
fn merges_add_what_a_map_has_not_itself() {
    let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 5, <<: [*a, *b]}\n";
    assert_eq!(scalars(text), ["1", "2", "3", "4", "5", "1", "4"]);
    assert_eq!(scalars("a: {\"<<\": 1}"), ["1"]);
    assert_eq!(scalars("a: &a {5: 1}\nb: {<<: *a, '5': 2}"), ["1", "2"]);
}

#[test]
fn an_alias_inside_of_what_it_stands_for_is_refused() {
    let expected = "an alias inside of what it stands for; expected an alias of something else";
    for (text, place) in
        [("a: &a {b: 1, c: *a}", "1:17"), ("a: &a\n  - *a", "2:5"), ("&a {b: *a}", "1:8")]
    {
        assert_eq!(error(text), format!("{place}: {expected}"), "{text}");
    }
}

#[test]
fn a_variable_without_quotes_in_a_flow_is_told() {
    let told = "in which ${...} stands in quotes inside of {} and []";
    for text in ["a: {b: ${C}}", "a:\n- [${C}, x]", "a: {b: 'x', c: ${C:-1}}"] {
        assert!(error(text).ends_with(told), "{}", error(text));
    }
    for text in ["a: {b: 'it''s ${C}', c: }}", "a: [1\nb: 2", "a: {b: \"${C}\"}}"] {
        assert!(!error(text).ends_with(told), "{}", error(text));
    }
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}x{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        writeln!(bomb, "a{level}: &a{level} [{alias}]").unwrap();
    }
    assert!(parse(&bomb).is_err());
    for depth in [15, 16, 17, 30, 100, 1000, 100_000] {
        assert_eq!(parse(&nested("[", "]", depth)).is_ok(), depth <= 16, "{depth}");
        assert_eq!(parse(&nested("{a: ", "}", depth)).is_ok(), depth <= 16, "{depth}");
        assert_eq!(parse(&nested("- ", "", depth)).is_ok(), depth <= 16, "{depth}");
        assert!(parse(&"[".repeat(depth)).is_err(), "{depth}");
    }
}

#[test]
fn aliases_do_not_nest_deeper_than_the_text_may() {
    for depth in [5, 16, 17, 60, 2000] {
        let mut chain = String::from("a0: &a0 x\n");
        for level in 1..depth {
            writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
        }
        assert_eq!(parse(&chain).is_ok(), depth <= 16, "{depth}");
    }
}
