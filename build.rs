//! Notes what the program is built from, for `/build` and the metrics, and packs the page for
//! people.

use std::{env, fs, io, path::Path, process::Command};

/// The scripts of the page, each of which may use the names of those before it.
const SCRIPTS: [&str; 6] = ["format", "dom", "charts", "overview", "sessions", "live"];

fn main() {
    pack_page().expect("src/admin/page can be read and OUT_DIR be written");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=READYGATE_COMMIT");
    let rustc = env::var_os("RUSTC").map(|rustc| output(Command::new(rustc).arg("--version")));
    note("RUSTC", rustc.flatten());
    note("TARGET", env::var("TARGET").ok());
    note("PROFILE", env::var("PROFILE").ok());
    let told = env::var("READYGATE_COMMIT").ok();
    let told = told.filter(|commit| !commit.is_empty());
    note("COMMIT", told.or_else(commit));
}

/// Puts the files of the page where `src/admin/page.rs` includes them.
fn pack_page() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/admin/page");
    let read = |name: &str| fs::read_to_string(Path::new("src/admin/page").join(name));
    let folder = env::var("OUT_DIR").expect("cargo sets it");
    let write = |name, text: &str| fs::write(Path::new(&folder).join(name), pack(text));
    write("page.html", &read("page.html")?)?;
    write("page.css", &read("style.css")?)?;
    let scripts = SCRIPTS.map(|name| read(&format!("{name}.js")));
    let scripts: String = scripts.into_iter().collect::<io::Result<_>>()?;
    write("page.js", &scripts)
}

/// Without indentation, empty lines and lines of comments.
fn pack(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    code.flat_map(|line| [line, "\n"]).collect()
}

/// The commit of the sources; only for release builds, for looking after it would build the
/// program anew after every commit.
fn commit() -> Option<String> {
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return None;
    }
    let head = output(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]))?;
    println!("cargo::rerun-if-changed={head}");
    output(Command::new("git").args(["rev-parse", "HEAD"]))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|it| it.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned())
}

fn note(name: &str, value: Option<String>) {
    let value = value.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=READYGATE_{name}={value}");
}
