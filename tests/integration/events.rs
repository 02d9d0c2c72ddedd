//! Every line of the log has an event whose name never changes, and `docs/operating.md` lists them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The entry of one event in the source or in the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    levels: BTreeSet<String>,
    fields: BTreeSet<String>,
}

type Events = BTreeMap<String, Event>;

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// Calls `visit` with the text of each source file, without its tests and comments.
fn for_each_source(folder: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let code: Vec<&str> = text.lines().filter(is_code).collect();
            visit(&path, &code.join("\n"));
        }
    }
}

/// Returns the arguments of the macro or function whose parenthesis was just opened before `text`.
fn arguments(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut depth = 0_usize;
    let mut characters = text.chars();
    let mut is_quoted = false;
    while let Some(character) = characters.next() {
        let last = found.last_mut().unwrap();
        match character {
            '\\' if is_quoted => {
                last.push(character);
                last.extend(characters.next());
                continue;
            }
            '"' => is_quoted = !is_quoted,
            '(' | '[' | '{' if !is_quoted => depth += 1,
            ')' | ']' | '}' if !is_quoted => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
            }
            ',' if !is_quoted && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        last.push(character);
    }
    found
        .iter()
        .map(|argument| argument.trim().to_owned())
        .filter(|argument| !argument.is_empty())
        .collect()
}

/// Returns the text of a string literal.
fn literal(argument: &str) -> Option<&str> {
    argument.strip_prefix('"')?.strip_suffix('"')
}

fn events_of_the_source() -> Events {
    let mut events = Events::new();
    let mut add = |name: &str, level: &str, fields: &[String]| {
        let event = events.entry(name.to_owned()).or_default();
        event.levels.insert(level.to_owned());
        event.fields.extend(fields.iter().cloned());
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for_each_source(&source, &mut |path, text| {
        let path = path.display();
        // Written without the subscriber.
        for call in ["report(", "json_line("] {
            for (start, _) in text.match_indices(call) {
                let arguments = arguments(&text[start + call.len()..]);
                if let Some(name) = literal(&arguments[0]) {
                    add(name, "error", &[]);
                }
            }
        }
        let mut macros = 0;
        for level in LEVELS {
            let start_of_macro = format!("tracing::{level}!(");
            for (start, _) in text.match_indices(&start_of_macro) {
                macros += 1;
                let arguments = arguments(&text[start + start_of_macro.len()..]);
                let name = arguments
                    .iter()
                    .find_map(|argument| argument.strip_prefix("event = "))
                    .and_then(literal)
                    .unwrap_or_else(|| panic!("{path}: a line without an event: {arguments:?}"));
                let fields: Vec<String> = arguments
                    .iter()
                    .filter(|argument| {
                        !argument.starts_with('"') && !argument.starts_with("event =")
                    })
                    .map(|argument| {
                        let name = argument.split(" = ").next().unwrap();
                        name.trim_start_matches(['%', '?']).to_owned()
                    })
                    .collect();
                add(name, level, &fields);
            }
        }
        // This test would not find other ways to log.
        assert_eq!(text.matches("tracing::event!").count(), 0, "{path}");
        let all = LEVELS.iter().map(|level| {
            let start_of_macro = format!("{level}!(");
            text.match_indices(&start_of_macro)
                .filter(|(start, _)| {
                    !text[..*start].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                })
                .count()
        });
        assert_eq!(
            all.sum::<usize>(),
            macros,
            "{path}: a log macro without `tracing::`"
        );
    });
    events
}

/// Returns the cells of a row of a Markdown table.
fn cells(row: &str) -> Vec<&str> {
    let row = row.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    row.expect("a row").split('|').map(str::trim).collect()
}

fn events_of_the_table() -> Events {
    let page = include_str!("../../docs/operating.md");
    let section = page.split("\n### Events\n").nth(1).expect("a section");
    let list = |cell: &str| -> BTreeSet<String> {
        cell.split(", ")
            .map(|item| item.trim_matches('`').to_owned())
            .filter(|item| !item.is_empty())
            .collect()
    };
    let mut events = Events::new();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    for row in rows {
        let cells = cells(row);
        let [name, levels, fields, meaning, _what_to_do] = cells[..] else {
            panic!("a row of five cells: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        let event = Event {
            levels: list(levels),
            fields: list(fields),
        };
        let replaced = events.insert(name.trim_matches('`').to_owned(), event);
        assert!(replaced.is_none(), "{name} has two rows");
    }
    events
}

#[test]
fn docs_list_every_event_of_the_log() {
    let (source, table) = (events_of_the_source(), events_of_the_table());
    for (name, event) in &source {
        match table.get(name) {
            None => panic!("docs/operating.md lacks `{name}`: {event:?}"),
            Some(listed) => assert_eq!(listed, event, "{name}: left is docs/operating.md"),
        }
    }
    for name in table.keys() {
        assert!(source.contains_key(name), "nothing logs `{name}`");
    }
}

#[test]
fn names_of_events_are_snake_case() {
    for name in events_of_the_source().keys() {
        let is_snake_case =
            |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
        assert!(name.bytes().all(is_snake_case), "{name}");
    }
}

#[test]
fn arguments_of_macros_are_found() {
    let text = r#"event = "a", x = f(1, "b)"), %error, ?y, "said, \"{}\"", more) + other(z)"#;
    assert_eq!(
        arguments(text),
        [
            r#"event = "a""#,
            r#"x = f(1, "b)")"#,
            "%error",
            "?y",
            r#""said, \"{}\"""#,
            "more"
        ]
    );
}
