//! Memory available to the process, by its cgroup's limit or else the machine's size, and memory in
//! use.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::overload::Usage;

/// Returns the memory available to the process in bytes, read from the files below `root`; `None`
/// when they do not tell.
///
/// A cgroup is also bound by its ancestors, so the smallest limit counts. In a container the
/// cgroup's path is often that of the host, which does not exist inside; the container's own cgroup
/// is then what is mounted at the top.
#[must_use]
pub fn limit(root: &Path) -> Option<u64> {
    let cgroup = smallest_cgroup(root).map(|(limit, _)| limit);
    cgroup.into_iter().chain(machine(root)).min()
}

/// Returns the limit of the process's cgroup in bytes, and the source of its usage; `None` without
/// a limit below the machine's memory.
#[must_use]
pub fn cgroup(root: &Path) -> Option<(u64, Usage)> {
    let machine = machine(root).unwrap_or(u64::MAX);
    smallest_cgroup(root).filter(|(limit, _)| *limit < machine)
}

fn smallest_cgroup(root: &Path) -> Option<(u64, Usage)> {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    // Versions 1 and 2 may be mounted side by side; only one of them has the memory controller.
    let limits = memberships.lines().filter_map(hierarchy);
    let limits = limits.filter_map(|hierarchy| hierarchy.smallest(root));
    limits.min_by_key(|(limit, _)| *limit)
}

/// Location of a cgroup, from one line of `/proc/self/cgroup`.
struct Hierarchy {
    mount: &'static str,
    /// Name of the file with the limit.
    file: &'static str,
    usage: fn(&Path) -> Usage,
    /// Path of the cgroup within the mount.
    path: PathBuf,
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    // From inside a cgroup namespace, a path outside of it begins with `..`.
    let path = Path::new(path)
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect();
    // An empty list of controllers marks the one hierarchy of version 2 (cgroups(7)).
    if controllers.is_empty() {
        Some(Hierarchy {
            mount: "sys/fs/cgroup",
            file: "memory.max",
            usage: Usage::version_2,
            path,
        })
    } else if controllers
        .split(',')
        .any(|controller| controller == "memory")
    {
        Some(Hierarchy {
            mount: "sys/fs/cgroup/memory",
            file: "memory.limit_in_bytes",
            usage: Usage::version_1,
            path,
        })
    } else {
        None
    }
}

impl Hierarchy {
    /// Finds the smallest limit of the cgroup and its ancestors, with the source of its usage.
    fn smallest(&self, root: &Path) -> Option<(u64, Usage)> {
        let mount = root.join(self.mount);
        let limit = |cgroup: &Path| {
            let cgroup = mount.join(cgroup);
            let limit = fs::read_to_string(cgroup.join(self.file)).ok()?;
            // `max` stands for no limit and is not a number.
            let limit = limit.trim().parse().ok()?;
            Some((limit, (self.usage)(&cgroup)))
        };
        let limits = self.path.ancestors().filter_map(limit);
        limits.min_by_key(|(limit, _)| *limit)
    }
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
        let usage = Usage::version_2(&root.path().join("sys/fs/cgroup/kube/pod"));
        assert_eq!(cgroup(root.path()), Some((500_000, usage)));
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
        let usage = Usage::version_1(&root.path().join("sys/fs/cgroup/memory/docker/abc"));
        assert_eq!(cgroup(root.path()), Some((300_000, usage)));
    }

    #[test]
    fn a_limit_that_the_machine_cannot_reach_is_none() {
        let root = root(&[
            MACHINE,
            ("proc/self/cgroup", "4:memory:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);

        assert_eq!(cgroup(root.path()), None);
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
