//! The program as a child process, with its files.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

/// The shortest valid file.
pub(crate) const VALID: &str = "[[route]]\nupstream = \"http://127.0.0.1:8081\"\n";

/// The program in `directory`, without the caller's `PORT` and colours.
pub(crate) fn readygate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readygate"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("PORT")
        .env_remove("NO_COLOR");
    command
}

pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    readygate(directory, arguments).output().unwrap()
}

pub(crate) fn directory_with(name: &str, text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), text).unwrap();
    directory
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Starts the program on any port and waits until it says that it listens.
pub(crate) fn start(directory: &Path) -> Child {
    let arguments = [
        "--upstream",
        "http://127.0.0.1:8081",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "",
    ];
    let mut program = readygate(directory, &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    // Whatever else it logs must not block it.
    std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
    program
}

/// A program that ends with the test, also with one that fails.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
