//! The sources of the crate.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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

/// Every module of the library with its code: without comments, and without unit tests, which may
/// use more than what they test does.
pub(crate) fn modules() -> BTreeMap<Vec<String>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root).expect("a file below src");
        let path = path.with_extension("");
        let names = path.iter().map(|name| name.to_string_lossy().into_owned());
        let path: Vec<_> = names.collect();
        let is_test = path.iter().any(|name| name == "tests");
        if !is_test && path != ["lib"] && path != ["main"] {
            let text = fs::read_to_string(&file).expect("a source file");
            modules.insert(path, production(&text));
        }
    }
    modules
}

/// The code of a file, without comments and unit tests.
fn production(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let production = code.split("#[cfg(test)]\nmod tests {").next();
    production.unwrap_or_default().to_owned()
}
