"""Sinks: what a call was is told to the outside, exactly once, whatever the outside does meanwhile."""
