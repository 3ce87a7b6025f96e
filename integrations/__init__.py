"""One module per framework or service; each is imported by name and needs its own extra.

Installed as `dataloader_cache.integrations`. A module in here uses public names of the core only.
"""
