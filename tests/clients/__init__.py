"""The tests of wrapped clients: real SDKs, real HTTP on loopback, a provider of our own."""
