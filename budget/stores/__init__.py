"""Stores: where pools, reservations and entries live. Every command is one atomic step."""
