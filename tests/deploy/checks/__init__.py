"""What each kind of file in `deploy/` is judged by: `problems(file)` says what is wrong."""
