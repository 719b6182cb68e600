//! `readygate version`, `--version` and `completions`.

use std::{env, path::Path, process::Command};

use crate::support::{run, stderr, stdout};

#[test]
fn the_version_is_one_line_and_its_parts_are_text_or_json() {
    let directory = tempfile::tempdir().unwrap();
    let short = run(directory.path(), &["--version"]);
    let long = run(directory.path(), &["version"]);
    let json = run(directory.path(), &["version", "--json"]);

    let parts: serde_json::Value = serde_json::from_str(stdout(&json)).unwrap();
    let part = |name: &str| parts[name].as_str().unwrap().to_owned();
    assert_eq!(part("name"), "readygate");
    assert_eq!(part("version"), env!("CARGO_PKG_VERSION"));
    assert!(part("rustc").starts_with("rustc "));
    assert_eq!(
        stdout(&short),
        format!(
            "readygate {} (commit {}, {})\n",
            part("version"),
            part("commit"),
            part("target")
        )
    );
    for name in ["version", "commit", "rustc", "target", "profile"] {
        let line = format!("{name:8} {}\n", part(name));
        assert!(stdout(&long).contains(&line), "{line}");
    }
    // Only a release looks after its commit: others would be built anew after each one.
    if part("profile") == "release" && head().is_some() {
        assert_ne!(part("commit"), "unknown");
    }
}

/// The commit of the sources, where they are those of a repository.
fn head() -> Option<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !sources.join(".git").exists() {
        return None;
    }
    let git = ["rev-parse", "HEAD"];
    let output = Command::new("git").args(git).current_dir(sources).output();
    Some(stdout(&output.unwrap()).trim().to_owned())
}

#[test]
fn a_release_is_built_with_the_commit_of_its_sources() {
    let Some(head) = head() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("build");
    let compiled = Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg("build.rs")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", stderr(&compiled));
    let noted = |commit: Option<&str>| {
        let output = Command::new(&script)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("READYGATE_COMMIT")
            .envs(commit.map(|commit| ("READYGATE_COMMIT", commit)))
            .env("PROFILE", "release")
            .env("OUT_DIR", directory.path())
            .output()
            .unwrap();
        let line = "cargo::rustc-env=READYGATE_COMMIT=";
        let mut lines = stdout(&output).lines();
        lines
            .find_map(|it| it.strip_prefix(line))
            .unwrap()
            .to_owned()
    };

    assert_eq!(noted(None), head);
    assert_eq!(noted(Some("")), head);
    assert_eq!(noted(Some("of-a-package")), "of-a-package");
}

#[test]
fn completions_are_for_the_shells_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(directory.path(), &["completions", shell]);

        assert_eq!(output.status.code(), Some(0), "{shell}");
        for word in ["healthcheck", "explain", "upstream"] {
            assert!(stdout(&output).contains(word), "{word} for {shell}");
        }
    }
    let unknown = run(directory.path(), &["completions", "tcsh"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("bash"), "{}", stderr(&unknown));
}

#[test]
fn what_is_completed_for_bash_is_bash() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("readygate.bash");
    let output = run(directory.path(), &["completions", "bash"]);
    std::fs::write(&script, &output.stdout).unwrap();
    let ask = "source readygate.bash; COMP_WORDS=(readygate he); COMP_CWORD=1; \
               _readygate readygate he readygate; echo \"${COMPREPLY[*]}\"";

    let completed = Command::new("bash")
        .args(["--norc", "-c", ask])
        .current_dir(directory.path())
        .output()
        .unwrap();

    let words = stdout(&completed);
    assert!(
        words.contains("healthcheck"),
        "{words}{}",
        stderr(&completed)
    );
}
