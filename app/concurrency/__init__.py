"""What threads and processes need of each other: bounded concurrency, background threads, signals."""
