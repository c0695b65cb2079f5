"""Networks as files of other runtimes."""
