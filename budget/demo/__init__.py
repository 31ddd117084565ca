"""A provider of our own on loopback, for `budget demo`, the tests and the benchmarks. Nothing else imports it."""
