"""Tests of the SDKs that are in the extra `providers`; they run where those are installed (`make test-matrix`)."""
