//! The map in `src/lib.rs` against the code: imports go the way it says.

mod circles;
mod source;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

/// The table of modules in the crate documentation, in its order: a module and its imports.
fn rows() -> Vec<(String, BTreeSet<String>)> {
    let documentation = include_str!("../../src/lib.rs");
    let table: Vec<_> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .filter_map(|row| {
            let mut cells = row.split(" | ");
            let module = cells.next()?.trim_end_matches('`');
            let imports = cells.next()?;
            let imports = imports
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            Some((module.to_owned(), imports))
        })
        .collect();
    assert!(
        table.len() > 10,
        "the table of modules in src/lib.rs was not found"
    );
    table
}

/// The top-level modules that a source text names behind `crate::`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut imports = BTreeSet::new();
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|char| char.is_alphanumeric() || *char == '_')
            .collect()
    };
    for (_, rest) in text
        .match_indices("crate::")
        .map(|(at, it)| (at, &text[at + it.len()..]))
    {
        let Some(group) = rest.strip_prefix('{') else {
            imports.insert(name(rest));
            continue;
        };
        // The names at the start of the elements of one `use crate::{…}`.
        let mut depth = 0;
        let mut is_start = true;
        for (at, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                _ if is_start && !char.is_whitespace() => {
                    imports.insert(name(&group[at..]));
                    is_start = false;
                }
                _ => {}
            }
        }
    }
    imports
}

#[test]
fn imports_go_the_way_of_the_map_in_the_crate_documentation() {
    let allowed: BTreeMap<_, _> = rows().into_iter().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();

    for (path, code) in source::modules() {
        let module = &path[0];
        seen.insert(module.clone());
        let permitted = allowed.get(module).cloned().unwrap_or_default();
        for import in imports(&code) {
            if import != *module && !permitted.contains(&import) {
                wrong.push(format!("{} imports {import}", path.join("::")));
            }
        }
    }

    let documented: BTreeSet<_> = allowed.keys().cloned().collect();
    assert_eq!(
        documented, seen,
        "modules in the table of src/lib.rs, and in src"
    );
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn imports_are_found_in_every_form() {
    let text =
        "use crate::{\n    a::{self, x::y},\n    b,\n    c::D,\n};\nfn f() { crate::e::g() }";

    assert_eq!(
        imports(text),
        ["a", "b", "c", "e"].map(str::to_owned).into()
    );
}
