"""Run every way in which a DataLoader can break against ours and its peers.

``python -m benchmarks.torture`` prints the table; ``--markdown FILE`` renders it.
"""
