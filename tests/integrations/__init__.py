"""Tests of the adapters: each with the real framework, where it is installed."""
