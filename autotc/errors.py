"""The exceptions of autotc.

AutotcError                 anything autotc can explain
├── SpecError               what the user asked for is wrong (exit code 2)
│   ├── PolicyError         a policy document, or its fit to a model
│   ├── DataError           a data file or an image in it
│   └── ModelError          an unknown or unsupported model
├── UnsupportedError        a combination that is refused by name until it is tested
└── StoreError              the database: wrong program, wrong version, unreachable, full
    └── StoreAway           it does not take anything now, and may in a moment
"""


class AutotcError(Exception):
    """Base of every error autotc raises on purpose; its text says what to do next."""

    exit_code = 1


class SpecError(AutotcError):
    """What the user asked for cannot be done as written."""

    exit_code = 2


class PolicyError(SpecError):
    """A policy document is malformed, or does not fit the model it is applied to."""


class DataError(SpecError):
    """A data file, or an image it names, cannot be used."""


class ModelError(SpecError):
    """The model is unknown, unsupported, or its weights are not at hand."""


class UnsupportedError(AutotcError):
    """A combination of features that is refused until it is tested."""

    exit_code = 2


class StoreError(AutotcError):
    """The database cannot be used as asked."""

    exit_code = 2


class StoreAway(StoreError):
    """The database does not take anything now, and may in a moment: restarting, busy, full or out of reach."""
