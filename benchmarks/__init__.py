"""Side-by-side measurements of `dataloader_cache` against its Python peers.

Run all of them with `python -m benchmarks`, or one: `python -m benchmarks.per_key`,
`python -m benchmarks.under_load`. A contender that is not installed is left out, with a line that
says so.
"""
