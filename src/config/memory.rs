//! How much memory the process may have: its cgroup's limit, else the machine's memory.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The memory that the process may have, in bytes, as the files below `root` tell; `None`
/// when they do not.
///
/// A cgroup is also bound by the cgroups that it is in, so that the smallest limit counts.
/// In a container its own path is often that of the host, which does not exist inside; what
/// is mounted at the top is then the container's own.
pub(super) fn limit(root: &Path) -> Option<u64> {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = memberships.lines().filter_map(hierarchy);
    let limits = limits.filter_map(|(mount, file, path)| smallest(&root.join(mount), file, &path));
    limits.chain(machine(root)).min()
}

/// Where one line of `/proc/self/cgroup` leads: the mount, the file with the limit, and the
/// path of the cgroup within the mount.
fn hierarchy(line: &str) -> Option<(&'static str, &'static str, PathBuf)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    // From inside a cgroup namespace, a path outside of it begins with `..`.
    let path = Path::new(path)
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect();
    if controllers.is_empty() {
        Some(("sys/fs/cgroup", "memory.max", path))
    } else if controllers
        .split(',')
        .any(|controller| controller == "memory")
    {
        Some(("sys/fs/cgroup/memory", "memory.limit_in_bytes", path))
    } else {
        None
    }
}

fn smallest(mount: &Path, file: &str, path: &Path) -> Option<u64> {
    let limit = |cgroup: &Path| {
        let limit = fs::read_to_string(mount.join(cgroup).join(file)).ok()?;
        // `max`, the word for no limit, is not a number.
        limit.trim().parse().ok()
    };
    path.ancestors().filter_map(limit).min()
}

fn machine(root: &Path) -> Option<u64> {
    let memory = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = root(&[
            MACHINE,
            ("proc/self/cgroup", "0::/kube/pod/app\n"),
            ("sys/fs/cgroup/kube/pod/app/memory.max", "max\n"),
            ("sys/fs/cgroup/kube/pod/memory.max", "500000\n"),
            ("sys/fs/cgroup/kube/memory.max", "900000\n"),
        ]);

        assert_eq!(limit(root.path()), Some(500_000));
    }

    #[test]
    fn a_path_of_the_host_falls_back_to_what_is_mounted() {
        let root = root(&[
            MACHINE,
            ("proc/self/cgroup", "0::/../docker/abc\n"),
            ("sys/fs/cgroup/memory.max", "400000\n"),
        ]);

        assert_eq!(limit(root.path()), Some(400_000));
    }

    #[test]
    fn version_1_of_cgroups_is_read() {
        let root = root(&[
            MACHINE,
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
                "300000\n",
            ),
        ]);

        assert_eq!(limit(root.path()), Some(300_000));
    }

    #[test]
    fn without_a_limit_the_machine_is_the_limit() {
        let unlimited = root(&[
            MACHINE,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ]);
        let elsewhere = root(&[]);

        assert_eq!(limit(unlimited.path()), Some(2048 * 1024));
        assert_eq!(limit(elsewhere.path()), None);
    }
}
