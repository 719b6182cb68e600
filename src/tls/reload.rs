//! Values that are made from files, and remade when the files change.
//!
//! Files are compared by content rather than watched by inotify: secrets are mounted as symbolic
//! links that are swapped, on file systems that send no events.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use super::{FileError, files};

/// A value made from files.
pub struct Reloadable<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, FileError> + Send + Sync>,
    current: ArcSwap<T>,
    contents: Mutex<Contents>,
}

/// Fingerprints of the files' contents.
#[derive(Clone, Copy, Debug)]
struct Contents {
    /// Contents that were last made into a value, or could not be.
    tried: u64,
    /// Contents at the last check.
    seen: u64,
}

impl<T> Reloadable<T> {
    /// Makes a value from `files`, which are all that `make` reads.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        // Before `make` reads them, so that the next check finds a change in between.
        let now = fingerprint(&files);
        let current = ArcSwap::from_pointee(make()?);
        Ok(Self {
            files,
            make: Box::new(make),
            current,
            contents: Mutex::new(Contents {
                tried: now,
                seen: now,
            }),
        })
    }

    /// Returns the value in use.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Remakes the value if the files have changed, and have stayed the same since the last check:
    /// a certificate and its key are rarely written at the same instant.
    ///
    /// Returns `None` when nothing has changed.
    ///
    /// # Errors
    ///
    /// The problem with the files, once for each change; the value stays as it is.
    pub fn refresh(&self) -> Option<Result<(), FileError>> {
        let now = fingerprint(&self.files);
        {
            let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
            let is_settled = contents.seen == now;
            contents.seen = now;
            if contents.tried == now || !is_settled {
                return None;
            }
            contents.tried = now;
        }
        // The lock is released first: making a value reads files.
        Some((self.make)().map(|value| self.current.store(Arc::new(value))))
    }

    /// Remakes the value at once, whether or not the files have changed.
    ///
    /// # Errors
    ///
    /// The problem with the files; the value stays as it is.
    pub fn reload(&self) -> Result<(), FileError> {
        let now = fingerprint(&self.files);
        *self.contents.lock().unwrap_or_else(PoisonError::into_inner) = Contents {
            tried: now,
            seen: now,
        };
        // Stored before this may fail, so that `refresh` does not report the same contents again.
        self.current.store(Arc::new((self.make)()?));
        Ok(())
    }
}

impl<T> fmt::Debug for Reloadable<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reloadable")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Hashes the contents of `files`; a hash, so that no key is kept in memory for a comparison.
#[must_use]
pub fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        // A missing file hashes as `None`, so that its return is a change.
        files::contents(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The content of a file, which must not be `broken`.
    fn sound(file: &PathBuf) -> Result<String, FileError> {
        match fs::read_to_string(file) {
            Ok(text) if text != "broken" => Ok(text),
            _ => Err(FileError {
                what: "broken".to_owned(),
                expected: "",
                help: None,
            }),
        }
    }

    fn reloadable(text: &str) -> (tempfile::NamedTempFile, Reloadable<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let path = file.path().to_owned();
        let reloadable = Reloadable::new(vec![path.clone()], move || sound(&path)).unwrap();
        (file, reloadable)
    }

    #[test]
    fn a_change_is_taken_over_once_it_has_stayed_for_two_looks() {
        let (file, reloadable) = reloadable("one");
        assert_eq!(reloadable.refresh(), None);

        fs::write(&file, "tw").unwrap();
        assert_eq!(reloadable.refresh(), None);
        fs::write(&file, "two").unwrap();
        assert_eq!(reloadable.refresh(), None);
        assert_eq!(*reloadable.current(), "one");

        assert_eq!(reloadable.refresh(), Some(Ok(())));
        assert_eq!(*reloadable.current(), "two");
        assert_eq!(reloadable.refresh(), None);
    }

    #[test]
    fn a_broken_file_is_reported_once_and_changes_nothing() {
        let (file, reloadable) = reloadable("one");
        fs::write(&file, "broken").unwrap();
        reloadable.refresh();

        assert!(reloadable.refresh().unwrap().is_err());
        assert_eq!(reloadable.refresh(), None);
        assert_eq!(*reloadable.current(), "one");

        fs::write(&file, "one").unwrap();
        reloadable.refresh();
        assert_eq!(reloadable.refresh(), Some(Ok(())));
    }

    #[test]
    fn a_file_that_is_gone_is_broken() {
        let (file, reloadable) = reloadable("one");
        file.close().unwrap();
        reloadable.refresh();

        assert!(reloadable.refresh().unwrap().is_err());
        assert!(reloadable.reload().is_err());
        assert_eq!(*reloadable.current(), "one");
    }

    #[test]
    fn a_reload_does_not_wait() {
        let (file, reloadable) = reloadable("one");
        fs::write(&file, "two").unwrap();

        reloadable.reload().unwrap();

        assert_eq!(*reloadable.current(), "two");
        assert_eq!(reloadable.refresh(), None);
    }
}
