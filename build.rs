//! Notes what the program is built from, for `/build` and the metrics.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=READYGATE_COMMIT");
    let rustc = env::var_os("RUSTC").map(|rustc| output(Command::new(rustc).arg("--version")));
    note("RUSTC", rustc.flatten());
    note("TARGET", env::var("TARGET").ok());
    note("PROFILE", env::var("PROFILE").ok());
    note("COMMIT", env::var("READYGATE_COMMIT").ok().or_else(commit));
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
