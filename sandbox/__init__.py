"""The embedded stack that the demo, the tests and the benchmarks share. Production never imports it."""
