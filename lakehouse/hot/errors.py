"""The errors of the hot store, in one tree.

HotStoreError              what happened, where, what to do next
├── HotStoreUnavailable    it can't be reached or can't write now: try again later
│   └── HotStoreTimeout    it did not answer in time
├── NotMigrated            its tables are missing or older than this program
└── RowsLost               the server took a batch and kept fewer rows than it was given
"""

from contract.errors import TrackMateError


class HotStoreError(TrackMateError):
    """Base of the hot store's errors."""


class HotStoreUnavailable(HotStoreError):
    """The hot store can't be reached or can't write at the moment; the same call may succeed later."""


class HotStoreTimeout(HotStoreUnavailable):
    """The hot store did not answer in time."""


class NotMigrated(HotStoreError):
    """The hot store's tables are missing or do not fit this program."""


class RowsLost(HotStoreError):
    """The server reported fewer rows than it was given, and the missing ones are not there: nothing of the batch was kept."""
