//! The map in `src/lib.rs` against the code: imports go the way it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The edges that the crate documentation allows: a module and what it may import.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let documentation = include_str!("../../src/lib.rs");
    let table: BTreeMap<_, _> = documentation
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

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    let allowed = allowed();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();

    for file in files {
        let relative = file.strip_prefix(&root).expect("a file below src");
        let first = relative.iter().next().expect("a name").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        seen.insert(module.clone());
        let text = fs::read_to_string(&file).expect("a source file");
        // Unit tests may set up what they need, wherever that is.
        let production = text.split("#[cfg(test)]\nmod tests {").next();
        let code: String = production
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let permitted = allowed.get(&module).cloned().unwrap_or_default();
        for import in imports(&code) {
            if import != module && !permitted.contains(&import) {
                wrong.push(format!("{} imports {import}", relative.display()));
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
