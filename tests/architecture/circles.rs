//! No circles: neither in the table of `src/lib.rs`, nor among the files of a folder.

use std::collections::{BTreeMap, BTreeSet};

use crate::{rows, source};

/// Modules that import each other although they are siblings, and why.
const EXCEPTIONS: &[(&str, &[&str], &str)] = &[(
    "config_file",
    &["keys", "routes", "tls"],
    "a key is read into a draft of the section's reader, which takes its keys from the table",
)];

/// Path of a module below the crate, such as `["session", "hold"]`.
type Path = Vec<String>;

/// Edges among the children of one module.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Splits a `use` tree at its top: `a, b::{c, d}` has two parts.
fn split(tree: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, char) in tree.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    parts
}

/// Adds the paths that a `use` tree names, with `prefix` before each.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Path>) {
    for part in split(tree).into_iter().map(str::trim) {
        let (head, group) = part.split_once('{').unwrap_or((part, ""));
        let mut path = prefix.to_vec();
        let (head, _) = head.split_once(" as ").unwrap_or((head, ""));
        let names = head.split("::").map(str::trim);
        path.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        match group.rsplit_once('}') {
            Some((group, _)) => expand(group, &path, paths),
            None if !part.is_empty() => paths.push(path),
            None => {}
        }
    }
}

/// Every path that a source text imports, or writes out behind `crate::` or `super::`.
fn named(text: &str) -> Vec<Path> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let is_word = text[..at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace);
        if is_word && let Some((tree, _)) = text[at + 4..].split_once(';') {
            expand(tree, &[], &mut paths);
        }
    }
    for root in ["crate::", "super::"] {
        for (at, _) in text.match_indices(root) {
            if text[..at].ends_with("super::") {
                continue;
            }
            let is_path = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
            let end = text[at..].find(|char| !is_path(char));
            let path = &text[at..end.map_or(text.len(), |end| at + end)];
            paths.push(path.split("::").map(str::to_owned).collect());
        }
    }
    paths
}

/// The module that `path` names when it stands in the module `here`.
fn resolve(path: &[String], here: &[String], modules: &BTreeMap<Path, String>) -> Option<Path> {
    let mut base = here.to_vec();
    let mut rest = path;
    if rest.first()? == "crate" {
        base.clear();
        rest = &rest[1..];
    }
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    while !base.is_empty() && !modules.contains_key(&base) {
        base.pop();
    }
    (!base.is_empty()).then_some(base)
}

/// The edges among siblings, by their parent: one that imports anything of another one, or of what
/// is below that.
fn siblings(modules: &BTreeMap<Path, String>) -> BTreeMap<Path, Edges> {
    let mut parents: BTreeMap<Path, Edges> = BTreeMap::new();
    for (here, text) in modules {
        for path in named(text) {
            let Some(there) = resolve(&path, here, modules) else {
                continue;
            };
            let common = here.iter().zip(&there).take_while(|(a, b)| a == b).count();
            // A parent and what is below it belong together.
            if let (Some(from), Some(to)) = (here.get(common), there.get(common)) {
                let edges = parents.entry(here[..common].to_vec()).or_default();
                edges.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    parents
}

/// The modules that `from` imports, directly or through others.
fn reachable<'a>(from: &'a str, edges: &'a Edges) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(module) = left.pop() {
        for next in edges.get(module).into_iter().flatten() {
            if seen.insert(next.as_str()) {
                left.push(next);
            }
        }
    }
    seen
}

/// The groups of modules that import each other in a circle.
fn circles(edges: &Edges) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<_, _> = edges
        .keys()
        .map(|module| (module.as_str(), reachable(module, edges)))
        .collect();
    let in_circle = |module: &&str| reached[module].contains(module);
    reached
        .keys()
        .filter(|module| in_circle(module))
        .map(|module| {
            let back = |other: &&str| reached.get(other).is_some_and(|all| all.contains(module));
            reached[module].iter().copied().filter(back).collect()
        })
        .collect()
}

#[test]
fn siblings_do_not_import_each_other_in_a_circle() {
    let modules = source::modules();
    assert!(modules.len() > 100, "the sources were not found");
    assert!(EXCEPTIONS.len() <= 5, "an exception is an exception");
    let mut found = BTreeSet::new();

    for (parent, edges) in &siblings(&modules) {
        for circle in circles(edges) {
            found.insert((parent.join("::"), circle.join(", ")));
        }
    }

    let named = EXCEPTIONS
        .iter()
        .map(|(parent, circle, _)| ((*parent).to_owned(), circle.join(", ")))
        .collect();
    assert_eq!(found, named, "circles, and the exceptions that are named");
}

#[test]
fn a_row_of_the_map_imports_only_rows_below_it() {
    let rows = rows();
    let mut wrong = Vec::new();

    for (at, (module, imports)) in rows.iter().enumerate() {
        let below = &rows[at + 1..];
        for import in imports {
            if !below.iter().any(|(name, _)| name == import) {
                wrong.push(format!("{module} imports {import}"));
            }
        }
    }

    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn circles_are_found_through_other_modules() {
    let sources = [
        ("a", "use crate::b::{deep::X, Y};"),
        ("b", ""),
        ("b::deep", "use super::super::c;\nfn f() { super::g() }"),
        ("c", "fn f() { crate::a::g() }"),
        ("d", "use super::a;"),
    ];
    let path = |module: &str| module.split("::").map(str::to_owned).collect();
    let modules = sources.map(|(module, text)| (path(module), text.to_owned()));

    let parents = siblings(&modules.into());

    let circle: BTreeSet<_> = [vec!["a", "b", "c"]].into();
    assert_eq!(circles(&parents[&Vec::new()]), circle);
}
