"""Runnable programs that use the library, each with its own test."""
