"""The commands: parse, call the library, print. They join supernet, search and latency."""
