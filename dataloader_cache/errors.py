"""The errors that dataloader-cache raises.

DataLoaderCacheError
├── ConfigurationError                   an argument of a constructor or decorator is wrong
│   ├── ConfigurationTypeError           (TypeError) its type
│   └── ConfigurationValueError          (ValueError) its value
├── NoScopeError (RuntimeError)          a factory was used outside a scope
├── LoopError (RuntimeError)             no running event loop, or another one than before
├── LoaderClosedError (RuntimeError)     the loader was closed
├── BatchResultError (TypeError)         a batch function returned a wrong shape or length
├── KeyNotFoundError (LookupError)       a mapping lacks the key, with missing="raise"
├── LoadTimeoutError (TimeoutError)      a load took longer than load_timeout
├── LoadCancelledError                   the load was cancelled from inside
└── LoaderDeadlockError (RuntimeError)   a load waits for itself
"""

from __future__ import annotations

__all__ = [
    "BatchResultError",
    "ConfigurationError",
    "ConfigurationTypeError",
    "ConfigurationValueError",
    "DataLoaderCacheError",
    "KeyNotFoundError",
    "LoadCancelledError",
    "LoadTimeoutError",
    "LoaderClosedError",
    "LoaderDeadlockError",
    "LoopError",
    "NoScopeError",
]


class DataLoaderCacheError(Exception):
    """Serve as the root of every error that this package raises on its own account."""


class ConfigurationError(DataLoaderCacheError):
    """Report an argument that can't work, where the object is built and not when it is used."""


class ConfigurationTypeError(ConfigurationError, TypeError):
    """Report a configuration argument of a wrong type."""


class ConfigurationValueError(ConfigurationError, ValueError):
    """Report a configuration argument of the right type with a value that can't work."""


class NoScopeError(DataLoaderCacheError, RuntimeError):
    """Report a loader factory used where no scope is open."""


class LoopError(DataLoaderCacheError, RuntimeError):
    """Report a load without a running event loop, or on another loop than the loader's."""


class LoaderClosedError(DataLoaderCacheError, RuntimeError):
    """Report a load on a loader after `aclose`."""


class BatchResultError(DataLoaderCacheError, TypeError):
    """Report a batch function whose result can't be matched to its keys."""


class KeyNotFoundError(DataLoaderCacheError, LookupError):
    """Report a key that a mapping result lacks, where the loader has `missing="raise"`."""


class LoadTimeoutError(DataLoaderCacheError, TimeoutError):
    """Report a load that did not end within `load_timeout` seconds."""


class LoadCancelledError(DataLoaderCacheError):
    """Report a load that was cancelled from inside: by its function, by closing, by shutdown.

    It is no `asyncio.CancelledError`, so that a caller can tell it from its own cancellation.
    """


class LoaderDeadlockError(DataLoaderCacheError, RuntimeError):
    """Report a load that waits, directly or through other loads, for itself."""
