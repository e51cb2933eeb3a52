"""Where objects are kept: each module is one kind of destination behind `interfaces.Store`."""

from bulkfetch.stores.local.store import LocalStore

__all__ = ("LocalStore",)
